"""Secrets of Compose: files that ops/create_secrets.sh creates, and that no container has in its environment."""

import json
import re
import subprocess
from pathlib import Path

from tests.support.compose import ROOT, SECRETS, parse_config


def create_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder that is laid out like the repository."""
    (folder / "ops").mkdir(exist_ok=True)
    script = folder / "ops" / "create_secrets.sh"
    script.write_text((ROOT / "ops" / "create_secrets.sh").read_text())
    return subprocess.run(["sh", script], capture_output=True, text=True, check=True)


def read_secrets(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_secrets_are_created_once(tmp_path: Path) -> None:
    create_secrets(tmp_path)
    created = read_secrets(tmp_path)
    assert set(created) == SECRETS
    random = [value for value in created.values() if value]
    assert len(set(random)) == len(random) == 9
    assert {len(value) for value in random} == {64}
    # The containers' users can read the files, but nobody else on the machine can reach them.
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o644}
    assert create_secrets(tmp_path).stdout == ""
    assert read_secrets(tmp_path) == created


def test_secrets_of_an_earlier_release_are_taken_over(tmp_path: Path) -> None:
    """Otherwise the new passwords would not be those of the existing volumes."""
    (tmp_path / ".env").write_text("SECRET_KEY=old'key\nREDIS_PASSWORD='quoted'\nLOG_LEVEL=INFO\n# QDRANT_API_KEY=no\n")
    output = create_secrets(tmp_path).stdout
    created = read_secrets(tmp_path)
    assert (created["SECRET_KEY"], created["REDIS_PASSWORD"]) == ("old'key", "quoted")
    assert len(created["QDRANT_API_KEY"]) == 64
    assert output.endswith("Remove them from .env: SECRET_KEY REDIS_PASSWORD\n")


def test_containers_get_secrets_only_as_files() -> None:
    """Compose is given each secret in its environment too, as an old .env would, and must not use it."""
    profiles = {"COMPOSE_PROFILES": "observability,edge,backup"}
    config = parse_config(environment=profiles)
    services = config["services"]
    assert parse_config(environment={name: f"canary-{name}" for name in SECRETS} | profiles)["services"] == services
    assert {name: secret["file"] for name, secret in config["secrets"].items()} == {
        name: str(ROOT / "secrets" / name) for name in SECRETS
    }
    used: set[str] = set()
    for name, service in services.items():
        mounted = {secret["source"] for secret in service.get("secrets", [])}
        text = json.dumps([service.get(key) for key in ("environment", "entrypoint", "command", "healthcheck")])
        assert set(re.findall(r"/run/secrets/([A-Z_]+)", text)) <= mounted, name
        for variable, value in service["environment"].items() if service.get("environment") else ():
            if value and re.search("PASSWORD|SECRET|KEY|AUTH|TOKEN|WEBHOOK", variable):
                assert "/run/secrets/" in value, (name, variable)
        used |= mounted
    assert used == SECRETS
