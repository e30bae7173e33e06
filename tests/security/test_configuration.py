"""Production refuses a configuration that gives attackers a way in, and its key can be changed without a logout."""

import re
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.docs import markdown
from tests.support.load_settings import KEY, PRODUCTION
from tests.support.plugin import Servers
from tests.support.voiceassist_server import ROOT, VoiceAssistServer, database_with_staff
from tests.voiceassist.test_settings import SERVER, run

EMAIL, PASSWORD = "admin@example.org", "a long password"
NEW_KEY = KEY[::-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "x"),
        ("SECRET_KEY", "k" * 64),
        ("SECRET_KEY", f"django-insecure-{KEY}"),
        ("SECRET_KEY_FALLBACKS", f"{KEY},x"),
        ("ALLOWED_HOSTS", "*"),
    ],
)
def test_server_refuses_to_start(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "value").write_text(value)
    environment = {variable: text for variable, text in PRODUCTION.items() if variable != name}
    done = run(SERVER, environment | {f"{name}_FILE": str(tmp_path / "value")})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"voiceassist: {name}: .+\. .+\.\n", done.stderr), done.stderr
    assert value not in done.stderr.split(": ", 2)[2] or len(value) == 1


def test_key_can_be_changed_without_a_logout(servers: Servers) -> None:
    """Follow the steps of docs/SECURITY_COMPLIANCE.md. The last server has lost the key that signed the login."""
    production = {
        **PRODUCTION,
        "ALLOWED_HOSTS": "127.0.0.1",
        "HTTPS_ONLY": "false",
        "ADMIN_MFA": "optional",
        "DATABASE_URL": database_with_staff(servers.postgres, "rotated", EMAIL, PASSWORD),
        "REDIS_URL": servers.redis.url,
        "QDRANT_URL": servers.qdrant.url,
        "WEB_CONCURRENCY": "1",
        "DRAIN_SECONDS": "0",
    }
    with ExitStack() as stack:
        with VoiceAssistServer(**production) as app:  # type: ignore[arg-type]  # mypy takes any of them for `port`
            client = stack.enter_context(closing(app.log_in(EMAIL, PASSWORD)))
        assert_stays_logged_in(client, app.port, production)


def assert_stays_logged_in(client: httpx.Client, port: int, production: dict[str, str]) -> None:
    status_page = "/admin/status/"
    for keys, is_logged_in in [
        ({"SECRET_KEY": KEY, "SECRET_KEY_FALLBACKS": NEW_KEY}, True),
        ({"SECRET_KEY": NEW_KEY, "SECRET_KEY_FALLBACKS": KEY}, True),
        ({"SECRET_KEY": NEW_KEY}, True),  # its session was signed again
        ({"SECRET_KEY": KEY}, False),
    ]:
        environment = {**production, **keys}
        with VoiceAssistServer(port=port, **environment):
            assert client.get("/admin/").status_code == (200 if is_logged_in else 302), keys
            assert client.get(status_page).status_code == (200 if is_logged_in else 302), keys


def test_env_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    (command,) = re.findall(r"`(install [^`]+)`", (ROOT / ".env.example").read_text())
    subprocess.run(["bash", "-c", f"umask 022; {command}"], cwd=tmp_path, check=True)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_no_page_copies_the_example_with_another_mode() -> None:
    for path in (*markdown.pages(), ROOT / ".env.example", ROOT / "docker-compose.yml"):
        assert not re.search(r"\bcp (-\w+ )?\.env\.example", path.read_text()), path
