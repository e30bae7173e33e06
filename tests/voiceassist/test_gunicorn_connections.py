"""A worker that is short of connections, descriptors or threads, and how long it keeps idle connections."""

import contextlib
import http.client
import math
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.processes import has_ended
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

OPEN_FILES = 256
CONNECTIONS = 160  # that a worker with 4 threads accepts below that limit
KEEPALIVE = math.ceil(4 * SLOWNESS)  # seconds


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceAssistServer]:
    """Yield a server with one worker and a low limit of open files."""
    with limited_server(tmp_path_factory.mktemp("limited"), f"ulimit -n {OPEN_FILES}") as app:
        yield app


def limited_server(folder: Path, command: str) -> VoiceAssistServer:
    python = folder / "python"
    python.write_text(f'#!/bin/sh\n{command}\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return VoiceAssistServer(python=python, WEB_CONCURRENCY="1", HEALTH_OPTIONAL="migrations")


def test_idle_connections_keep_nobody_out(app: VoiceAssistServer) -> None:
    """When no more connections fit, the one that has waited longest for a request is closed, once for each new one."""
    (worker,) = app.workers()
    kept_alive = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
    with contextlib.closing(kept_alive), contextlib.ExitStack() as stack:
        kept_alive.request("GET", "/")
        assert kept_alive.getresponse().read()
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", app.port))) for _ in range(OPEN_FILES + 20)]
        for path in ("/health", "/ready", "/metrics", "/"):
            assert app.get(path)[0] == 200
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""
        idle[-1].sendall(b"GET /health HTTP/1.0\r\n\r\n")
        idle[-1].settimeout(5)
        assert idle[-1].recv(12) == b"HTTP/1.0 200"
        kept_alive.request("GET", "/")  # a client that has sent requests is closed last
        assert kept_alive.getresponse().status == 200
        assert CONNECTIONS < worker.num_fds() < OPEN_FILES
    assert app.workers() == [worker]
    assert app.log_messages().count("all connections are in use; closing the longest idle") == 1


def test_worker_without_descriptors_waits_for_some(app: VoiceAssistServer) -> None:
    (worker,) = app.workers()
    worker.rlimit(psutil.RLIMIT_NOFILE, (4, OPEN_FILES))  # it has more, so it gets no new one
    try:
        with socket.create_connection(("127.0.0.1", app.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert succeeds_within(5, lambda: "no connection can be accepted" in app.log_messages())
            cpu = sum(worker.cpu_times()[:2])
            time.sleep(1)
            assert sum(worker.cpu_times()[:2]) - cpu < 0.5  # it retries ten times per second
            worker.rlimit(psutil.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
            client.settimeout(10)
            assert client.recv(12) == b"HTTP/1.0 200"
    finally:
        worker.rlimit(psutil.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    assert app.workers() == [worker]
    (line,) = [line for line in app.log_lines() if "no connection can be accepted" in line["message"]]
    assert (line["level"], line["error"]) == ("warning", "EMFILE")


def test_master_without_descriptors_keeps_its_workers(tmp_path: Path) -> None:
    """Gunicorn's would stop them all when it can't replace one."""
    with limited_server(tmp_path, f"ulimit -n {OPEN_FILES}; export WEB_CONCURRENCY=2") as app:
        assert succeeds_within(10, lambda: len(app.workers()) == 2)
        killed, kept = app.workers()
        master = psutil.Process(app.process.pid)
        master.rlimit(psutil.RLIMIT_NOFILE, (4, OPEN_FILES))  # it has more, so it gets no new one
        killed.kill()
        message = "A worker can't be started (Too many open files). The server tries again every second."
        assert succeeds_within(10, lambda: message in app.log_messages())
        time.sleep(2)  # further attempts
        assert app.get("/health")[0] == 200
        assert app.workers() == [kept]
        assert app.log_messages().count(message) == 1
        master.rlimit(psutil.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        assert succeeds_within(10, lambda: len(app.workers()) == 2)


def test_replacement_without_threads_does_not_end_the_server(tmp_path: Path) -> None:
    """Root has no limit of threads, so the replacement becomes another user."""
    config = tmp_path / "gunicorn.py"
    config.write_text(
        "import os, resource\n"
        "from voiceassist.gunicorn import *\n"
        "from voiceassist.gunicorn import post_fork as ours, start\n"
        "start()\n"
        "def post_fork(server, worker):\n"
        "    ours(server, worker)\n"
        "    if worker.age == 3:\n"
        "        if os.geteuid() == 0:\n"
        "            os.setuid(54321)\n"
        "        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
    )
    with VoiceAssistServer(config=str(config)) as app:
        assert succeeds_within(10, lambda: len(app.workers()) == 2)
        killed, kept = app.workers()
        killed.kill()
        message = "A thread can't be started. Raise the limit of processes and threads (ulimit -u, TasksMax=)."
        assert succeeds_within(10, lambda: message in app.log_messages())
        assert succeeds_within(10, lambda: sum(line.startswith("Booting worker") for line in app.log_messages()) == 4)
        assert app.get("/health")[0] == 200
        assert kept in app.workers()


def test_workers_free_the_port_when_the_master_was_killed(tmp_path: Path) -> None:
    """Clients with kept-alive connections would hold it for 30 s, and a new server could not start."""
    with limited_server(tmp_path, "") as app:
        (worker,) = app.workers()
        client = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
        client.request("GET", "/")
        assert client.getresponse().read()
        app.process.kill()
        app.process.wait(10)

        def is_closed() -> bool:
            client.request("GET", "/")
            response = client.getresponse()
            response.read()
            return response.headers["Connection"] == "close"

        assert succeeds_within(10, is_closed)
        with pytest.raises(ConnectionRefusedError):
            app.get("/health")
        assert succeeds_within(10, lambda: has_ended(worker))


def test_soft_limit_is_raised(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with limited_server(tmp_path, f"ulimit -S -n {OPEN_FILES}") as app:
        (worker,) = app.workers()
        expected = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        assert worker.rlimit(psutil.RLIMIT_NOFILE) == (expected, hard)


def test_pool_that_gets_no_threads_says_so() -> None:
    """And the process can exit, although some threads run. Root has no limit of threads, so it becomes another user."""
    program = """if True:
        import os, resource, sys
        from voiceassist import gunicorn_worker
        limit = 1
        if os.geteuid() == 0:
            os.setuid(54321)
            limit = 3  # this user has no other processes, so two threads start
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
        try:
            gunicorn_worker._started_pool(4, "test")
        except RuntimeError:
            sys.exit(17)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 17, done.stderr
    assert "A thread can't be started. Raise the limit of processes and threads" in done.stdout + done.stderr


# Idle connections


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceAssistServer]:
    """Yield a server that closes connections which have been idle for KEEPALIVE seconds."""
    config = tmp_path_factory.mktemp("impatient") / "gunicorn.py"
    config.write_text(f"from voiceassist.gunicorn import *\nstart()\nkeepalive = {KEEPALIVE}\n")
    with VoiceAssistServer(config=str(config), WEB_CONCURRENCY="1") as app:
        yield app


@pytest.fixture
def clients(impatient: VoiceAssistServer) -> Iterator[dict[str, http.client.HTTPConnection]]:
    """Yield a client for each path. The main thread responds to the first one, a thread of a pool to the second."""
    with contextlib.ExitStack() as stack:
        clients = {}
        for path in ("/health", "/"):
            clients[path] = http.client.HTTPConnection("127.0.0.1", impatient.port, timeout=30 * SLOWNESS)
            stack.callback(clients[path].close)
        yield clients


def request_all(clients: dict[str, http.client.HTTPConnection]) -> None:
    for path, client in clients.items():
        client.request("GET", path)
        response = client.getresponse()
        assert response.read()
        assert (response.status, response.headers["Connection"]) == (200, "keep-alive")


def test_idle_connection_is_closed_after_keepalive(clients: dict[str, http.client.HTTPConnection]) -> None:
    request_all(clients)
    started_at = time.monotonic()
    request_all(clients)
    for client in clients.values():
        assert client.sock.recv(1) == b""
        assert KEEPALIVE <= time.monotonic() - started_at < KEEPALIVE + 10 * SLOWNESS


def test_connection_in_use_stays_open(clients: dict[str, http.client.HTTPConnection]) -> None:
    request_all(clients)
    connections = [client.sock for client in clients.values()]
    started_at = time.monotonic()
    while time.monotonic() - started_at < 2 * KEEPALIVE:
        time.sleep(0.5)
        request_all(clients)
    assert [client.sock for client in clients.values()] == connections  # clients would open new ones
