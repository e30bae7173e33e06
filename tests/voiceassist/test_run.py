"""`make run` after the installation: `python -m voiceassist.run`."""

import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path
from socket import create_server

import psutil
import pytest

from tests.support.dependency_servers import free_port
from tests.support.full_disk import needs_mounts, with_mounts
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.processes import has_ended

ROOT = Path(__file__).resolve().parents[2]
CODE = ("core", "health", "ops", "voiceassist")
# create_admin writes the password to a file, which must not replace that of a developer.
PROGRAM = (
    "import pathlib, sys; from voiceassist import run, settings; settings.VAR = pathlib.Path(sys.argv[1]); run.main()"
)


def start(var: Path, **environment: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "WEB_CONCURRENCY": "1", **environment}
    environment.pop("DJANGO_SETTINGS_MODULE", None)  # set by pytest
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(var)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def get_status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_prepares_the_database_and_serves(servers: Servers, tmp_path: Path) -> None:
    servers.postgres.execute("CREATE DATABASE make_run")
    port = free_port()
    # It migrates and serves with the same role.
    url = servers.postgres.url.replace("/tests", "/make_run")
    with start(tmp_path, DATABASE_URL=url, BIND=f"127.0.0.1:{port}") as process:

        def is_ready() -> bool:
            assert process.poll() is None, process.communicate()
            try:
                return get_status(port, "/ready") == 200
            except OSError:
                return False

        try:
            assert succeeds_within(50, is_ready)
            children = psutil.Process(process.pid).children(recursive=True)
            assert [child for child in children if child.cmdline()[-2:] == [str(ROOT / "manage.py"), "worker"]]
            process.send_signal(signal.SIGINT)
            # until every process has closed the pipe, just before it ends
            output, _ = process.communicate(timeout=30 * SLOWNESS)
        finally:
            process.kill()  # its children end with it
    assert succeeds_within(10, lambda: all(map(has_ended, children)))
    # On a busy machine an autovacuum may block a migration for so long that `migrate` reports it.
    lines = [line for line in output.splitlines() if not line.startswith("Waiting for ")]
    assert lines[0] == "Applying migrations ..."
    assert [line.split()[0] for line in lines[1:6]] == ["postgres", "redis", "qdrant", "migrations", "ready"]
    assert (tmp_path / "admin-password").read_text().strip() in output
    assert f"  http://127.0.0.1:{port}/admin/" in lines


@pytest.mark.parametrize(
    ("bind", "error"),
    [("127.0.0.1:{}", "(Address already in use). Stop the program"), ("192.0.2.1:{}", "Set BIND to another address.")],
)
def test_reports_why_it_cannot_listen(tmp_path: Path, bind: str, error: str) -> None:
    with (
        create_server(("127.0.0.1", 0)) as server,
        start(tmp_path, BIND=bind.format(server.getsockname()[1])) as process,
    ):
        try:
            output, _ = process.communicate(timeout=30 * SLOWNESS)
        finally:
            process.kill()
    assert process.returncode == 1
    assert output.startswith("make run: can't listen on ")
    assert error in output
    assert len(output.splitlines()) == 1


def test_interrupt_in_a_destructor_stops_the_start() -> None:
    program = (
        "import signal\n"
        "from voiceassist import run\n"
        "class Interrupted:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "run._prepare = Interrupted\n"
        "run.main()\n"
    )
    environment = {**os.environ, "BIND": f"127.0.0.1:{free_port()}"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        output, _ = process.communicate(timeout=20 * SLOWNESS)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT
    assert "Serving" not in output


@needs_mounts
@pytest.mark.parametrize(
    ("mount", "is_embedded", "error"),
    [
        ("-o ro", True, "voiceassist: The servers under {var} can't be started or stopped. "),
        ("-o size=1m", True, "voiceassist: postgres could not be initialised. {var} has only 0 MiB of free space."),
        ("-o ro", False, "make run: Can't read or create {var}/secret-key (Read-only file system)."),
        ("-o nr_inodes=1", False, "make run: Can't read or create {var}/secret-key (No space left on device)."),
    ],
)
def test_full_or_read_only_disk_is_reported_in_one_line(
    mount: str, is_embedded: bool, error: str, tmp_path: Path
) -> None:
    """The code is mounted in another folder, so that its `var` is not a developer's."""
    var = tmp_path / "var"
    for name in (*CODE, "var"):
        (tmp_path / name).mkdir()
    mounts = [f"mount --bind '{ROOT / name}' '{tmp_path / name}'" for name in CODE]
    mounts.append(f"mount -t tmpfs {mount} none '{var}'")
    environment = {**os.environ, "BIND": f"127.0.0.1:{free_port()}"}
    for name in ("DJANGO_SETTINGS_MODULE", *(("DATABASE_URL", "REDIS_URL") if is_embedded else ())):
        environment.pop(name)
    command = with_mounts("; ".join(mounts), sys.executable, "-m", "voiceassist.run")
    timeout = 50 * SLOWNESS
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 1
    assert done.stderr.startswith(error.format(var=var))
    assert len(done.stderr.splitlines()) == 1, done.stderr
