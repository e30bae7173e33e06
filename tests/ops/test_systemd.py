"""The systemd units are valid and hardened, and start what docs/PROCEDURES.md and the contract say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.markdown import FENCE, ROOT
from voiceassist import gunicorn, settings

UNITS = sorted((ROOT / "ops" / "systemd").glob("*.service"))
NAMES = ["voiceassist-migrate", "voiceassist-server", "voiceassist-worker"]
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
needs_systemd_analyze = pytest.mark.skipif(
    SYSTEMD_ANALYZE is None and "CI" not in os.environ, reason="systemd-analyze is not installed"
)
PAGE = (ROOT / "docs" / "PROCEDURES.md").read_text()
SECTION = PAGE[PAGE.index("## Install on one machine with systemd") : PAGE.index("## Install on several machines")]


def values(unit: Path) -> dict[str, list[str]]:
    """Return the values of each key, of all sections."""
    result: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        result.setdefault(key, []).append(value)
    return result


def unit(name: str) -> dict[str, list[str]]:
    return values(ROOT / "ops" / "systemd" / f"{name}.service")


def environment_files() -> list[list[str]]:
    """Return the names in each documented environment file."""
    blocks = [
        code
        for _, language, code in FENCE.findall(re.sub(r"^   ", "", SECTION, flags=re.MULTILINE))
        if language == "ini"
    ]
    return [re.findall(r"^(\w+)=", block, re.MULTILINE) for block in blocks]


def test_units() -> None:
    assert [path.stem for path in UNITS] == NAMES


@needs_systemd_analyze
@pytest.mark.parametrize("name", NAMES)
def test_unit_is_valid(name: str, tmp_path: Path) -> None:
    """systemd also checks that the programs exist, so they are replaced by one that does."""
    text = (ROOT / "ops" / "systemd" / f"{name}.service").read_text()
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    copy = tmp_path / f"{name}.service"
    copy.write_text(text)
    done = subprocess.run([str(SYSTEMD_ANALYZE), "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd_analyze
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_is_hardened(path: Path) -> None:
    """The exposure is from 0 to 10, and that of a unit without any hardening is 9.6."""
    command = [str(SYSTEMD_ANALYZE), "security", "--offline=yes", "--threshold=20", "--no-pager", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_server_starts_as_production_does() -> None:
    [command] = unit("voiceassist-server")["ExecStart"]
    assert (
        command == "/opt/voiceassist/current/.venv/bin/gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application"
    )


def test_stop_waits_for_draining_and_requests() -> None:
    server, worker = unit("voiceassist-server"), unit("voiceassist-worker")
    assert server["KillMode"] == ["mixed"]
    assert int(server["TimeoutStopSec"][0]) > 5 + gunicorn.graceful_timeout
    assert int(worker["TimeoutStopSec"][0]) > 30
    assert server["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("name", NAMES)
def test_all_units_run_the_code_that_is_current(name: str) -> None:
    keys = unit(name)
    assert keys["WorkingDirectory"] == ["/opt/voiceassist/current"]
    assert keys["ExecStart"][0].startswith("/opt/voiceassist/current/.venv/bin/")
    assert keys["User"][0] in SECTION
    for file in keys["EnvironmentFile"]:
        assert f"`{file}`" in SECTION


def test_documented_variables_exist() -> None:
    server, migrate = environment_files()
    for name in (*server, *migrate):
        assert name.removesuffix("_FILE") in settings.ENVIRONMENT_VARIABLES, name
    assert set(migrate) >= {name for name in server if name.endswith("_FILE")}, "migrate can't read the server's files"
    required = {"SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL", "QDRANT_URL"}
    assert required <= {name.removesuffix("_FILE") for name in server}
