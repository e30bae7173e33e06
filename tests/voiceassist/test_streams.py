"""Standard streams that are closed, full or without a reader: everything starts, and the exit codes are right."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.dependency_servers import free_port
from tests.support.polling import succeeds_within
from tests.voiceassist.test_settings import ROOT

PYTHON = shlex.quote(sys.executable)
CHECKDEPS = f"{PYTHON} manage.py checkdeps --format json"
ENVIRONMENT = {**os.environ, "DJANGO_SETTINGS_MODULE": "voiceassist.settings", "LOG_FORMAT": "json"}
READY, NOT_READY = 0, 1


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"exec {command}"],
        env={**ENVIRONMENT, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("redirection", "code", "has_output"),
    [
        (">&-", NOT_READY, False),
        ("2>&-", READY, True),
        ("<&- >&- 2>&-", READY, False),
        ("--wait 0.3 2>/dev/full", NOT_READY, True),
    ],
)
def test_command_with_closed_streams(redirection: str, code: int, has_output: bool) -> None:
    environment = {"REDIS_URL": "redis://127.0.0.1:1/0"} if code == NOT_READY else {}
    done = shell(f"{CHECKDEPS} --only redis {redirection}", **environment)
    assert (done.returncode, done.stderr) == (code, "")
    assert bool(done.stdout) is has_output
    if has_output:
        assert json.loads(done.stdout)["status"] == ("ready" if code == READY else "not_ready")


@pytest.mark.parametrize("arguments", [["checkdeps", "--format", "json"], ["help"]])
def test_command_whose_reader_has_ended(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_command_with_full_stdout() -> None:
    done = shell(f"{CHECKDEPS} >/dev/full")
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["error"]["detail"] == "No space left on device"


def test_settings_can_be_imported_with_closed_streams() -> None:
    done = shell(f"{PYTHON} -c 'import voiceassist.settings' >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("redirection", "log"),
    [(">&- 2>{folder}/stderr", "stderr"), ("<&- >&- 2>&-", None),
     (">/dev/full 2>/dev/full", None)],
)  # fmt: skip
def test_server_with_closed_streams(tmp_path: Path, redirection: str, log: str | None) -> None:
    port = free_port()
    server = f"{PYTHON} -m gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application"
    environment = {**ENVIRONMENT, "BIND": f"127.0.0.1:{port}", "WEB_CONCURRENCY": "1", "DRAIN_SECONDS": "0"}
    command = f"exec {server} {redirection.format(folder=shlex.quote(str(tmp_path)))}"
    process = subprocess.Popen(["sh", "-c", command], env=environment, cwd=ROOT)

    def responds() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        except httpx.TransportError:
            return False

    try:
        assert succeeds_within(30, responds)
        # No file or socket got the descriptor of a closed stream.
        targets = [os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in (0, 1, 2)]
        assert set(targets) <= {str(tmp_path / "stderr"), "/dev/null", "/dev/full"}
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    if log:
        lines = [json.loads(line) for line in (tmp_path / log).read_text().splitlines()]
        assert any(line["logger"] == "voiceassist.request" for line in lines)
