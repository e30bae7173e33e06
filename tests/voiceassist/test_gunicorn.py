"""The server as production runs it: start, several workers, draining, stop, and its log."""

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from gunicorn.config import Config

from health.check_runner import Check, CheckOutput
from health.early_refresh import RefreshingRunner
from tests.core.api.test_envelope import check_envelope
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.polling import NOISE, SLOWNESS, ends_within, succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import ROOT, VoiceAssistServer
from voiceassist.gunicorn_worker import Worker


def state(app: VoiceAssistServer) -> str:
    status, _, body = app.get("/ready")
    envelope = json.loads(body)
    check_envelope(envelope, status)
    report = envelope["data"] or envelope["error"]["details"]
    assert (status == 200) is (report["status"] in ("ready", "degraded"))
    status_of_report: str = report["status"]
    return status_of_report


def dependencies(app: VoiceAssistServer) -> dict[str, Any]:
    envelope = json.loads(app.get("/ready")[2])
    report = envelope["data"] or envelope["error"]["details"]
    return dict(report["dependencies"])


def metrics(app: VoiceAssistServer) -> dict[str, str]:
    text = app.get("/metrics")[2].decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


@pytest.fixture(scope="module")
def app(servers: Servers) -> Iterator[VoiceAssistServer]:
    """Yield a server that was started as in production, not forked."""
    with VoiceAssistServer(python=sys.executable, HEALTH_OPTIONAL="migrations", WEB_CONCURRENCY="3") as app:
        yield app


def test_every_worker_is_ready(app: VoiceAssistServer) -> None:
    """Connections stay open until each worker has got one, because a worker with fewer of them gets the next ones."""
    ready = set[int]()
    with contextlib.ExitStack() as stack:

        def are_all_ready() -> bool:
            client = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
            stack.callback(client.close)
            client.request("GET", "/ready")
            response = client.getresponse()
            report = json.loads(response.read())["data"]
            # Only the database of pytest-django is migrated.
            assert (response.status, report["status"]) == (200, "degraded")
            port = client.sock.getsockname()[1]
            ready.update(
                worker.pid
                for worker in app.workers()
                for connection in app.connections(worker)
                if connection.raddr.port == port
            )
            return len(ready) == 3

        assert succeeds_within(10, are_all_ready)


def test_response_to_head_has_length_but_no_body(app: VoiceAssistServer) -> None:
    for path in ("/", "/health", "/ready/", "/metrics", "/nothing"):
        with socket.create_connection(("127.0.0.1", app.port), 5) as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            response = b""
            while data := connection.recv(65536):
                response += data
        head, _, body = response.partition(b"\r\n\r\n")
        assert body == b"", path
        assert b"content-length: " in head.lower(), path


def test_counters_are_summed_over_workers_and_gauges_have_one_series(app: VoiceAssistServer) -> None:
    successful = 'django_http_responses_total_by_status_total{status="200"}'
    before = float(metrics(app).get(successful, 0))
    for _ in range(30):
        app.get("/")
    samples = metrics(app)
    assert float(samples[successful]) - before == 30
    for name in ("voiceassist_ready", "voiceassist_build_info", 'voiceassist_dependency_up{dependency="redis"}'):
        series = [sample for sample in samples if sample.startswith(name)]
        assert len(series) == 1, series
        assert float(samples[series[0]]) == 1
    assert not [sample for sample in samples if "pid=" in sample]


def test_malformed_request_line_creates_no_series(app: VoiceAssistServer) -> None:
    for method in ("FOOA", "foo"):
        assert app.get("/", method=method)[0] in (400, 405)
    assert b"FOO" not in app.get("/metrics")[2].upper().replace(b"FOOTER", b"")


MALFORMED = ("GET / HTTP/9.x", "b\x01d / HTTP/1.1", "GET / HTTP/1.1\r\na b: c", "GET /" + "x" * 9000)


@pytest.mark.parametrize("line", MALFORMED)
def test_response_to_malformed_request_is_an_envelope(app: VoiceAssistServer, line: str) -> None:
    with socket.create_connection(("127.0.0.1", app.port), 5) as connection:
        connection.sendall(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        envelope = json.loads(response.read())
    check_envelope(envelope, response.status)
    assert envelope["error"]["code"] == "BAD_REQUEST"
    assert response.headers["X-Request-ID"] == envelope["trace_id"]
    assert succeeds_within(5, lambda: envelope["trace_id"] in app.log())


def test_log_has_one_json_line_per_request_without_its_path(app: VoiceAssistServer) -> None:
    trace = "trace-of-this-test"
    app.get("/secret-path?name=secret-query", headers={"X-Request-ID": trace})
    app.get("/health", headers={"X-Request-ID": "quiet"})
    app.get("/metrics", headers={"X-Request-ID": "quiet"})
    assert succeeds_within(5, lambda: trace in app.log())
    lines = app.log_lines()
    for line in lines:
        assert {"timestamp", "level", "service", "logger", "message"} <= set(line), line
        assert line["service"] == "voiceassist"
    (line,) = [line for line in lines if line.get("trace_id") == trace]
    assert (line["method"], line["status"], line["route"]) == ("GET", 404, None)
    assert "secret" not in app.log()
    assert not [line for line in lines if line.get("trace_id") == "quiet"]


def test_server_becomes_ready_after_its_dependencies_do(servers: Servers) -> None:
    with Proxy(servers.postgres.port) as proxy:
        proxy.mode = "refuse"
        url = servers.postgres.url.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with VoiceAssistServer(DATABASE_URL=url, HEALTH_OPTIONAL="migrations") as app:
            assert app.get("/health")[0] == 200
            assert dependencies(app)["postgres"]["reason"] == "connection_refused"
            assert state(app) == "not_ready"
            app.wait_for_checks()
            proxy.mode = "pass"
            assert state(app) == "degraded"


def test_liveness_is_fast_while_a_dependency_hangs(servers: Servers, tmp_path: Path) -> None:
    frozen = Valkey(tmp_path / "valkey")
    frozen.start()
    try:
        with VoiceAssistServer(REDIS_URL=frozen.url, WEB_CONCURRENCY="1", WEB_THREADS="3", HEALTH_TIMEOUT="1") as app:
            state(app)
            frozen.freeze()
            slow = threading.Thread(target=state, args=(app,))
            slow.start()
            durations = []
            for _ in range(20):
                started_at = time.monotonic()
                assert app.get("/health")[0] == 200
                durations.append(time.monotonic() - started_at)
            assert statistics.median(durations) < 0.5 * SLOWNESS  # half of HEALTH_TIMEOUT
            slow.join()
            assert dependencies(app)["redis"]["reason"] == "timeout"
    finally:
        frozen.kill()


def test_readiness_ends_in_time_while_a_dependency_hangs(servers: Servers, tmp_path: Path) -> None:
    """Within HEALTH_TIMEOUT and a quarter of a second. Only the fastest of five shows it on a busy machine."""
    frozen = Valkey(tmp_path / "valkey")
    frozen.start()
    try:
        with VoiceAssistServer(
            REDIS_URL=frozen.url, WEB_CONCURRENCY="1", HEALTH_TIMEOUT="1", HEALTH_MAX_AGE="0"
        ) as app:
            state(app)
            frozen.freeze()
            durations = []
            for _ in range(5):
                started_at = time.monotonic()
                assert dependencies(app)["redis"]["reason"] == "timeout"
                durations.append(time.monotonic() - started_at)
            assert min(durations) < 1 + 0.25 * SLOWNESS
            assert max(durations) < 1 + 0.25 + NOISE
            assert [message for message in app.log_messages() if message.startswith("redis:")] == [
                "redis: healthy → unhealthy (timeout)"
            ]
            frozen.thaw()
            assert succeeds_within(5, lambda: dependencies(app)["redis"]["reason"] is None)
            assert app.log_messages().count("redis: unhealthy → healthy") == 1
    finally:
        frozen.kill()


def test_any_number_of_probes_waits_for_one_round_of_checks(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path / "valkey") as frozen,
        VoiceAssistServer(REDIS_URL=frozen.url, WEB_CONCURRENCY="1", HEALTH_TIMEOUT="4") as app,
    ):
        app.wait_for_checks()
        frozen.freeze()
        # Two rounds, because some may come too late for the first one, but not eight at a time.
        with ThreadPoolExecutor(60) as probes, ends_within(2 * 4):
            statuses = {status for status, *_ in probes.map(lambda _: app.get("/ready", timeout=30), range(60))}
        assert statuses == {503}


@contextlib.contextmanager
def probed_worker(max_age: float) -> Iterator[Any]:
    """Yield a worker that records the names that it responds to, with the report, and what its main thread is to do."""
    worker: Any = Worker.__new__(Worker)
    worker.deferred, worker.responses = queue.SimpleQueue(), []
    with ThreadPoolExecutor(1) as pool:
        check = Check("database", lambda timeout: CheckOutput("endpoint"))
        worker.readiness = RefreshingRunner([check], timeout=30, max_age=max_age, explain=lambda error: ("error", ""))
        worker.readiness._use = lambda report: None  # starts no round of checks later
        worker.readiness_pool, worker.waiting_probes, worker.is_checking = pool, [], False
        worker.method_queue = SimpleNamespace(defer=lambda call, *args: worker.deferred.put(partial(call, *args)))
        worker.respond = lambda name: worker.responses.append((name, worker.readiness.report()))
        yield worker


@pytest.mark.parametrize("max_age", [0.0, 1000.0])
def test_probe_that_comes_after_the_checks_gets_no_report_that_is_too_old(max_age: float) -> None:
    """Others get the report of the checks that were running when they came, however short HEALTH_MAX_AGE is."""
    with probed_worker(max_age) as worker:
        worker.submit("first", worker.readiness_pool)
        worker.submit("second", worker.readiness_pool)
        respond = worker.deferred.get(timeout=30)
        worker.submit("late", worker.readiness_pool)
        respond()
        if not max_age:
            worker.deferred.get(timeout=30)()
        assert worker.deferred.empty()
    names, reports = zip(*worker.responses, strict=True)
    assert names == ("first", "second", "late")
    assert (reports[0] is reports[1], reports[0] is reports[2]) == (True, max_age > 0)


def test_probe_is_handled_as_other_requests_if_the_checks_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with probed_worker(0) as worker, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(worker.readiness, "report", Mock(side_effect=RuntimeError))
        worker.request_pool = pool
        worker.finish_request = lambda name, done: worker.responses.append((name, done.result()))
        worker.handle = lambda conn: "handled"
        worker.submit("first", worker.readiness_pool)
        for _ in range(2):
            worker.deferred.get(timeout=30)()
        assert worker.responses == [("first", "handled")]


def test_requests_fail_fast_while_the_database_hangs(servers: Servers) -> None:
    """Otherwise each would hold its thread, and soon none would be left."""

    web_session = {"Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}  # requires a query
    with Proxy(servers.postgres.port) as proxy:
        url = servers.postgres.url.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with VoiceAssistServer(DATABASE_URL=url, WEB_CONCURRENCY="1", WEB_THREADS="3", HEALTH_TIMEOUT="1") as app:

            def admin_status(_: int, server: VoiceAssistServer = app) -> int:
                return server.get("/admin/", headers=web_session, timeout=4)[0]  # shorter than a connection attempt

            state(app)
            with ThreadPoolExecutor(6) as clients:
                list(clients.map(admin_status, range(12)))  # every thread has connected
            proxy.mode = "silent"
            assert succeeds_within(5, lambda: dependencies(app)["postgres"]["reason"] == "timeout")
            assert [admin_status(number) for number in range(6)] == [503] * 6
            assert app.get("/health")[0] == 200
            proxy.mode = "pass"  # requests notice the recovery without a probe
            assert succeeds_within(10, lambda: admin_status(0) != 503)  # 500, because this database has no tables


def test_incomplete_requests_delay_no_other() -> None:
    unfinished = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        b"GET /health HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    )
    with VoiceAssistServer(WEB_CONCURRENCY="1", WEB_THREADS="2") as app, contextlib.ExitStack() as stack:
        for start in unfinished * 2:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", app.port)))
            client.sendall(start)
        time.sleep(0.2)
        for path in ("/", "/health", "/health/", "/ready", "/ready/?x=1", "/metrics"):
            for method in ("GET", "HEAD"):
                with ends_within(1):
                    assert app.get(path, method=method)[0] in (200, 503)


def test_connection_without_data_holds_no_thread() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", WEB_THREADS="1") as app, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", app.port))) for _ in range(5)]
        assert app.get("/", timeout=3)[0] == 200
        idle[0].sendall(b"GET /health HTTP/1.0\r\n\r\n")
        idle[0].settimeout(10)
        assert idle[0].recv(12) == b"HTTP/1.0 200"


def test_incomplete_head_holds_no_thread() -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with VoiceAssistServer(WEB_CONCURRENCY="1", WEB_THREADS="1") as app, contextlib.ExitStack() as stack:
        (worker,) = app.workers()
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", app.port))) for _ in range(5)]
        for client in clients:
            client.sendall(request[:1])
        assert app.get("/", timeout=3)[0] == 200
        cpu = sum(worker.cpu_times()[:2])
        time.sleep(1)
        assert sum(worker.cpu_times()[:2]) - cpu < 0.5  # the poller does not report the first byte again and again
        for position in range(1, len(request)):
            clients[0].sendall(request[position : position + 1])
            time.sleep(0.005)
        clients[0].settimeout(10)
        assert clients[0].recv(12) == b"HTTP/1.1 200"
        clients[0].sendall(request)  # the kept-alive connection works as before
        assert succeeds_within(5, lambda: b"HTTP/1.1 200" in clients[0].recv(65536))
        clients[1].shutdown(socket.SHUT_WR)
        clients[1].settimeout(5)
        assert clients[1].recv(1) == b""  # closed, instead of waiting for the rest


def test_body_in_pieces_arrives_after_a_head_in_pieces(app: VoiceAssistServer) -> None:
    head = f"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken={'c' * 32}\r\n".encode()
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", app.port), 5) as client:
        for piece in (head, form, b"a", b"="):
            client.sendall(piece)
            time.sleep(0.1)
        assert client.recv(12) == b"HTTP/1.1 403"  # the body has no CSRF token


@pytest.mark.parametrize("data", [b"", b"GET /"])
def test_connection_without_a_request_does_not_delay_the_stop(data: bytes) -> None:
    with (
        VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="0") as app,
        socket.create_connection(("127.0.0.1", app.port)) as client,
    ):
        client.sendall(data)
        assert app.get("/health")[0] == 200
        app.terminate()
        assert app.process.wait(15) == 0  # gunicorn's graceful_timeout is 30 s


def test_database_outage_returns_503_and_logs_one_line() -> None:
    web_session = {"Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}
    with VoiceAssistServer(DATABASE_URL="postgres://u:p@127.0.0.1:1/db") as app:
        status, headers, body = app.get("/admin/", headers=web_session)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert b"<h1>Not available right now</h1>" in body
        lines = app.log_lines()
        (line,) = [line for line in lines if line.get("trace_id") == headers["X-Request-ID"]]
        assert (line["status"], line["outage"], line["level"]) == (503, "OperationalError", "error")


# Draining


@pytest.mark.parametrize("workers", ["1", "3"])
def test_drains_before_it_stops(workers: str) -> None:
    drain_seconds = 6 * SLOWNESS
    with VoiceAssistServer(WEB_CONCURRENCY=workers, DRAIN_SECONDS=str(drain_seconds)) as app:
        state(app)
        started_at = time.monotonic()
        app.terminate()
        assert succeeds_within(2, lambda: state(app) == "draining")
        probes = 0
        while time.monotonic() - started_at < drain_seconds / 4:
            assert state(app) == "draining"
            assert app.get("/")[0] == 200
            assert app.get("/health")[0] == 200
            probes += 1
            time.sleep(0.05)
        assert probes
        assert app.process.wait(drain_seconds + 10 * SLOWNESS) == 0
        assert drain_seconds <= time.monotonic() - started_at < drain_seconds + 5 * SLOWNESS
        with pytest.raises((OSError, http.client.HTTPException)):
            app.get("/health")


def hanging_request(app: VoiceAssistServer, proxy: Proxy, clients: ThreadPoolExecutor) -> Future[int]:
    """Return the status of a request for /ready that waits for the hung dependency behind the proxy.

    One that joined a round of checks that had begun before the dependency hung may have ended well.
    """
    for _ in range(20):
        request = clients.submit(lambda: app.get("/ready", timeout=30)[0])
        if is_hanging(request, proxy):
            return request
    pytest.fail("no request waits")


def is_hanging(request: Future[int], proxy: Proxy) -> bool:
    succeeds_within(10, lambda: proxy.discarded or request.done(), interval=0.01)
    return not wait([request], 0.3).done


def test_requests_in_flight_are_finished(servers: Servers) -> None:
    """The request is a probe of a hung dependency, because no other is slower."""
    with Proxy(servers.redis.port) as proxy:
        url = servers.redis.url.replace(f":{servers.redis.port}", f":{proxy.port}")
        with VoiceAssistServer(DRAIN_SECONDS="0", REDIS_URL=url, HEALTH_TIMEOUT="3", WEB_CONCURRENCY="1") as app:
            state(app)
            proxy.mode = "silent"
            with ThreadPoolExecutor(1) as clients:
                slow = hanging_request(app, proxy, clients)
                app.terminate()
                assert slow.result(15) == 503
            assert app.process.wait(10) == 0


def result_of_drain(app: VoiceAssistServer) -> tuple[str, str]:
    """Return the level and the message of the line about the drain."""
    (line,) = [line for line in app.log_lines() if "DRAIN_SECONDS is" in line["message"]]
    return line["level"], line["message"]


def test_late_connection_is_refused_while_requests_are_finished(servers: Servers) -> None:
    """Otherwise it would hang until the last request ends, because nobody accepts it."""
    with Proxy(servers.redis.port) as proxy:
        url = servers.redis.url.replace(f":{servers.redis.port}", f":{proxy.port}")
        with VoiceAssistServer(DRAIN_SECONDS="0.5", REDIS_URL=url, HEALTH_TIMEOUT="6") as app:
            state(app)
            proxy.mode = "silent"
            with ThreadPoolExecutor(1) as clients:
                slow = hanging_request(app, proxy, clients)
                app.terminate()

                def is_refused() -> bool:
                    try:
                        app.get("/health", timeout=2)
                    except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
                        return True
                    return False

                assert succeeds_within(5, is_refused)
                assert app.workers()  # still finishing
                with pytest.raises(ConnectionRefusedError):
                    app.get("/health")
                assert not slow.done()
                assert slow.result(20) == 503
            assert app.process.wait(10) == 0


def test_responses_close_their_connection_while_draining() -> None:
    """Clients with a kept-alive connection open the next one elsewhere."""
    with VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="60") as app:
        client = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
        client.request("GET", "/")
        response = client.getresponse()
        response.read()
        assert response.headers["Connection"] == "keep-alive"
        app.terminate()
        assert succeeds_within(2, lambda: state(app) == "draining")
        client.request("GET", "/")
        response = client.getresponse()
        response.read()
        assert (response.status, response.headers["Connection"]) == (200, "close")
        for path in ("/health", "/ready", "/metrics", "/nothing", "/admin/"):
            assert app.get(path)[1]["Connection"] == "close", path


@pytest.mark.parametrize(
    ("path", "seconds", "level", "message"),
    [
        (
            "/",
            "3",
            "warning",
            "Requests still came at the end of the drain. Raise DRAIN_SECONDS, or check that the load",
        ),
        ("/health", "0.5", "info", "Drained. No request came after SIGTERM; DRAIN_SECONDS is 0.5."),
    ],
)
def test_log_says_whether_the_drain_was_long_enough(path: str, seconds: str, level: str, message: str) -> None:
    """Probes don't count, because they never stop."""
    with VoiceAssistServer(WEB_CONCURRENCY="2", DRAIN_SECONDS=seconds) as app:
        app.terminate()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                app.get(path)
                time.sleep(0.01)
        assert app.process.wait(10) == 0
        logged_level, logged_message = result_of_drain(app)
        assert logged_level == level
        assert logged_message.startswith(message)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_stops_at_once(second: signal.Signals) -> None:
    with VoiceAssistServer(DRAIN_SECONDS="60") as app:
        app.terminate()
        assert succeeds_within(5, lambda: state(app) == "draining")
        with ends_within(5):
            app.process.send_signal(second)
            assert app.process.wait(20) == 0
        assert result_of_drain(app)[1].startswith("Stopped before the drain ended, because a second signal came.")


def test_sigint_stops_at_once() -> None:
    with VoiceAssistServer(DRAIN_SECONDS="60") as app:
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(10) == 0


def test_worker_that_is_starting_obeys_a_stop_signal(tmp_path: Path) -> None:
    slow = tmp_path / "gunicorn.py"
    slow.write_text(
        "import time\n"
        "from voiceassist.gunicorn import *\n"
        "start()\n"
        "def post_fork(server, worker):\n"
        "    if worker.age == 2: time.sleep(2)\n"
    )
    with VoiceAssistServer(config=str(slow)) as app:
        assert succeeds_within(5, lambda: len(app.workers()) == 2)
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(10) == 0


def test_worker_started_while_draining_drains() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="8") as app:
        app.terminate()
        assert succeeds_within(5, lambda: state(app) == "draining")
        (worker,) = app.workers()
        worker.kill()

        def is_draining() -> bool:
            try:
                return state(app) == "draining"
            except (OSError, http.client.HTTPException):
                return False

        assert succeeds_within(5, is_draining)
        assert app.workers()[0].pid != worker.pid


def test_quit_signal_during_a_submit_does_not_deadlock() -> None:
    """A signal that interrupts `submit` arrives while the lock of the thread pool is locked."""
    worker = Worker(1, os.getpid(), [], None, 1, Config(), None)
    worker.tpool = ThreadPoolExecutor(1)
    worker.method_queue.init()
    with worker.tpool._shutdown_lock:
        worker.handle_quit(signal.SIGQUIT, None)
    assert worker.alive
    with pytest.raises(SystemExit):
        worker.method_queue.run_callbacks(None)
    assert not worker.alive
    worker.method_queue.close()
    worker.tmp.close()


def test_sigusr2_starts_a_new_server_on_the_same_port() -> None:
    """The old one then drains, while the new one accepts connections."""
    with VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="1", HEALTH_OPTIONAL="migrations") as app:
        app.process.send_signal(signal.SIGUSR2)

        def new_masters() -> list[psutil.Process]:
            return [process for process in app.workers() if process.children()]

        assert succeeds_within(60, new_masters)
        (new,) = new_masters()
        try:
            app.terminate()
            assert app.process.wait(20) == 0
            assert app.get("/health")[0] == 200
            assert state(app) == "degraded"
        finally:
            new.terminate()  # it drains
            new.wait(20)
        assert app.log().count("Drained.") == 2


@pytest.mark.parametrize("headers", [{"SCRIPT_NAME": "/admin"}, {"SCRIPT_NAME": "/x"}, {"PATH_INFO": "/metrics"}])
def test_headers_do_not_change_the_path(app: VoiceAssistServer, headers: dict[str, str]) -> None:
    """Gunicorn trusts these from clients on this machine, unless `forwarder_headers` is empty."""
    status, response_headers, _ = app.get("/admin/", headers=headers)
    assert (status, response_headers["Location"]) == (302, "/admin/login/?next=/admin/")


def test_starts_from_another_folder(tmp_path: Path) -> None:
    """Gunicorn reads its configuration before it applies --chdir."""
    config = str(ROOT / "voiceassist/gunicorn.py")
    with VoiceAssistServer("--chdir", str(ROOT), config=config, cwd=tmp_path) as app:
        assert app.get("/health")[0] == 200


def test_import_has_no_side_effects() -> None:
    program = """if True:
        import logging, os, signal, sys, warnings
        from voiceassist import settings
        def state():
            return (sys.stderr, sys.excepthook, warnings.showwarning, logging.root.handlers[:], logging.logThreads,
                logging._srcfile, dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ()), str(settings.LOGGING))
        before = state()
        from voiceassist import gunicorn
        from health.multiprocess import runtime_folder
        assert state() == before
        assert runtime_folder.path is None
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, check=True, timeout=60)


def test_configuration_without_start_is_rejected(tmp_path: Path) -> None:
    config = tmp_path / "gunicorn.py"
    config.write_text("from voiceassist.gunicorn import *\n")
    command = [sys.executable, "-m", "gunicorn", "-c", str(config), "--bind", "127.0.0.1:0", "voiceassist.wsgi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "start() was not called" in done.stderr


def test_message_that_cannot_be_formatted_is_logged_with_its_place(tmp_path: Path) -> None:
    config = tmp_path / "gunicorn.py"
    config.write_text(
        "import logging\n"
        "from voiceassist.gunicorn import *\n"
        "start()\n"
        "def post_fork(server, worker):\n"
        "    logging.getLogger('test').error('%d', 'no number')\n"
    )
    with VoiceAssistServer(config=str(config)) as app:
        (line, *_) = [line for line in app.log_lines() if line["logger"] == "test"]
        assert f"{config}:5" in line["message"]
        assert "no number" not in line["message"]


def test_no_file_outlives_the_server() -> None:
    with VoiceAssistServer(DRAIN_SECONDS="0") as app:
        (folder,) = app.runtime_folders()
        assert succeeds_within(5, lambda: len(list(folder.glob("state_*.json"))) == 2)
        assert len(list(folder.glob("*.db"))) > 1
        app.terminate()
        assert app.process.wait(10) == 0
        assert not folder.exists()
        assert [path.name for path in app.folder.iterdir()] == ["log"]


@pytest.mark.parametrize("behind", ["false", "true"])
def test_forwarded_proto_is_trusted_only_behind_a_proxy(behind: str) -> None:
    with VoiceAssistServer(HTTPS_ONLY="true", BEHIND_PROXY=behind) as app:
        for headers in ({}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Ssl": "on"}, {"X-Forwarded-Protocol": "ssl"}):
            assert app.get("/", headers=headers)[0] == 301, headers
        status, response_headers, _ = app.get("/", headers={"X-Forwarded-Proto": "https"})
        assert status == (200 if behind == "true" else 301)
        assert ("Strict-Transport-Security" in response_headers) is (behind == "true")
        assert app.get("/health")[0] == 200
