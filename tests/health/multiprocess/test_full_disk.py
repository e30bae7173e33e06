"""The server on full, small and read-only file systems, which it either tolerates or refuses in one line."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.full_disk import needs_mounts, no_space_left, with_mounts
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

pytestmark = needs_mounts

PATHS = {"/health": 200, "/ready": 200, "/metrics": 200, "/admin/": 302, "/admin/login/": 200, "/none": 404}
READ_ONLY_SHM = "mount -t tmpfs -o ro none /dev/shm"
READ_ONLY_ROOT = "mount -o bind,remount,ro /"
SPACE = "mount -t tmpfs -o size=2m none"


def run_with_mounts(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the folder as TMPDIR. In the script, it is called $T."""
    environment = {**os.environ, "T": str(folder), "TMPDIR": str(folder), "LOG_FORMAT": "console"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = with_mounts(script, sys.executable, *arguments)
    timeout = 30 * SLOWNESS
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(
    ("script", "parent"),
    [
        (READ_ONLY_SHM, "$T"),
        ("mount -t tmpfs -o size=1m none /dev/shm", "$T"),  # too small
        ("mount -t tmpfs -o size=20m none /dev/shm; head -c 6M /dev/zero >/dev/shm/fill", "$T"),
        (f"{READ_ONLY_SHM}; export TMPDIR=/missing", "/tmp"),
        ("mount -t tmpfs -o size=20m none /dev/shm; mount -t tmpfs -o ro none $T", "/dev/shm"),
        (f"mount -t tmpfs -o size=20m none /dev/shm; {READ_ONLY_ROOT}", "/dev/shm"),
        (f"{READ_ONLY_SHM}; {READ_ONLY_ROOT}; {SPACE} $T", "$T"),
    ],
)
def test_runtime_folder_is_where_there_is_space(script: str, parent: str, tmp_path: Path) -> None:
    program = (
        "from health.multiprocess import runtime_folder\n"
        "runtime_folder.create(); print(runtime_folder.path.parent); runtime_folder.remove()"
    )
    done = run_with_mounts(script, tmp_path, "-c", program)
    assert (done.stdout.strip(), done.stderr) == (parent.replace("$T", str(tmp_path)), "")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            f"{READ_ONLY_SHM}; mount -t tmpfs -o size=500k none $T",
            "voiceassist: Can't write the files that workers share to $T (No space left on device). "
            "Free space there, or set TMPDIR to another directory.",
        ),
        (
            f"{READ_ONLY_SHM}; {READ_ONLY_ROOT}; {SPACE} $T; head -c 4M /dev/zero 2>/dev/null >$T/fill || true",
            "voiceassist: /dev/shm has no 16 MiB of free, writable space. No usable temporary directory found in "
            "['$T', ",
        ),
    ],
)
def test_start_without_space_is_refused_in_one_line(script: str, message: str, tmp_path: Path) -> None:
    gunicorn = ("-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application")
    done = run_with_mounts(script, tmp_path, *gunicorn)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).startswith(message.replace("$T", str(tmp_path)))
    assert len((done.stdout + done.stderr).splitlines()) == 1, done.stdout + done.stderr


# A file system that fills up while the server runs


@pytest.fixture
def app(tmp_path: Path) -> Iterator[VoiceAssistServer]:
    python = tmp_path / "python"
    command = with_mounts("mount -t tmpfs -o size=20m none /dev/shm", sys.executable)
    python.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    python.chmod(0o700)
    with VoiceAssistServer(python=python, HEALTH_OPTIONAL="migrations", DRAIN_SECONDS="0") as app:
        yield app


def shared_memory(app: VoiceAssistServer) -> Path:
    """Return the server's /dev/shm as this process can reach it."""
    return Path(f"/proc/{app.process.pid}/root/dev/shm")


def request_count(app: VoiceAssistServer) -> float:
    series = 'voiceassist_http_request_duration_seconds_count{method="GET",route="/",status="200"} '
    status, _, body = app.get("/metrics")
    assert status == 200
    return next((float(line[len(series) :]) for line in body.decode().splitlines() if line.startswith(series)), 0)


def kill_a_worker(app: VoiceAssistServer) -> None:
    before = app.workers()
    before[0].kill()
    assert succeeds_within(10, lambda: len(set(app.workers()) - set(before)) == 1)


def test_server_survives_a_full_file_system(app: VoiceAssistServer) -> None:
    sent = 0

    def send() -> None:
        nonlocal sent
        assert app.get("/")[0] == 200
        sent += 1

    assert succeeds_within(10, lambda: len(app.workers()) == 2)
    workers = app.workers()
    for _ in range(10):
        send()
    assert request_count(app) == sent
    with no_space_left(shared_memory(app)):
        for path, status in PATHS.items():
            for _ in range(5):
                assert app.get(path)[0] == status
        assert app.workers() == workers  # none was killed
        kill_a_worker(app)
        for _ in range(30):
            send()
        assert 10 <= request_count(app) <= sent  # the new worker can't write all of its metrics
        log = app.log()
    assert "SIGBUS" not in log
    assert 1 <= log.count("metrics are incomplete") <= 4  # once in each process

    def is_complete() -> bool:
        send()
        return request_count(app) == sent

    assert succeeds_within(20, is_complete)
    kill_a_worker(app)
    assert request_count(app) == sent
    owners = {path.stem.rpartition("_")[2] for path in shared_memory(app).glob("*/*.db")}
    assert owners <= {"merged", str(app.process.pid), *(str(worker.pid) for worker in app.workers())}
    app.terminate()
    assert app.process.wait(30) == 0
