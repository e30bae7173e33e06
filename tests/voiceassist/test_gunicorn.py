"""The server as production runs it: start, several workers, draining, and what it logs."""

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.core.api.test_envelope import check_envelope
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer

NOISE = 1.5  # seconds that a busy machine may add


def state(app: VoiceAssistServer) -> str:
    status, _, body = app.get("/ready")
    envelope = json.loads(body)
    check_envelope(envelope, status)
    report = envelope["data"] or envelope["error"]["details"]
    assert (status == 200) is (report["status"] in ("ready", "degraded"))
    found: str = report["status"]
    return found


def dependencies(app: VoiceAssistServer) -> dict[str, Any]:
    envelope = json.loads(app.get("/ready")[2])
    found: dict[str, Any] = (envelope["data"] or envelope["error"]["details"])["dependencies"]
    return found


def messages(app: VoiceAssistServer) -> list[str]:
    return [json.loads(line)["message"] for line in app.log().splitlines()]


def within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.fixture(scope="module")
def app(servers: Servers) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(HEALTH_OPTIONAL="migrations", WEB_CONCURRENCY="3") as app:
        yield app


def test_ready_in_every_worker(app: VoiceAssistServer) -> None:
    assert {state(app) for _ in range(30)} == {"degraded"}  # the tests' database is migrated under another name


def test_head_has_no_body_and_the_same_length(app: VoiceAssistServer) -> None:
    for path in ("/", "/health", "/ready/", "/metrics", "/nothing"):
        with socket.create_connection(("127.0.0.1", app.port), 5) as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == b"", path
        assert b"content-length: " in head.lower(), path


def test_counters_add_up_over_workers_and_gauges_have_one_series(app: VoiceAssistServer) -> None:
    for _ in range(30):
        app.get("/")
    text = app.get("/metrics")[2].decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples['django_http_responses_total_by_status_total{status="200"}']) >= 30
    for name in ("voiceassist_ready", "voiceassist_build_info", 'voiceassist_dependency_up{dependency="redis"}'):
        series = [sample for sample in samples if sample.startswith(name)]
        assert len(series) == 1, series
        assert float(samples[series[0]]) == 1
    assert "pid=" not in text


def test_a_malformed_request_line_makes_no_series(app: VoiceAssistServer) -> None:
    for method in ("FOOA", "foo"):
        assert app.get("/", method=method)[0] in (400, 405)
    assert b"FOO" not in app.get("/metrics")[2].upper().replace(b"FOOTER", b"")


UNREADABLE = ("GET / HTTP/9.x", "b\x01d / HTTP/1.1", "GET / HTTP/1.1\r\na b: c", "GET /" + "x" * 9000)


@pytest.mark.parametrize("line", UNREADABLE)
def test_what_can_not_be_read_is_answered_in_the_envelope(app: VoiceAssistServer, line: str) -> None:
    with socket.create_connection(("127.0.0.1", app.port), 5) as connection:
        connection.sendall(f"{line}\r\nHost: localhost\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        envelope = json.loads(response.read())
    check_envelope(envelope, response.status)
    assert envelope["error"]["code"] == "BAD_REQUEST"
    assert response.headers["X-Request-ID"] == envelope["trace_id"]
    assert within(5, lambda: envelope["trace_id"] in app.log())


def test_log_lines(app: VoiceAssistServer) -> None:
    trace = "trace-of-this-test"
    app.get("/secret-path?name=secret-query", headers={"X-Request-ID": trace})
    app.get("/health", headers={"X-Request-ID": "quiet"})
    app.get("/metrics", headers={"X-Request-ID": "quiet"})
    assert within(5, lambda: trace in app.log())
    lines = [json.loads(line) for line in app.log().splitlines()]
    for line in lines:
        assert {"timestamp", "level", "service", "logger", "message"} <= set(line), line
        assert line["service"] == "voiceassist"
    (line,) = [line for line in lines if line.get("trace_id") == trace]
    assert (line["method"], line["status"], line["route"]) == ("GET", 404, None)
    assert "secret" not in app.log()
    assert not [line for line in lines if line.get("trace_id") == "quiet"]


def test_a_server_comes_up_by_itself_when_its_dependencies_do(servers: Servers) -> None:
    with Proxy(servers.postgres.port) as proxy:
        proxy.mode = "refuse"
        url = servers.postgres.url.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with VoiceAssistServer(DATABASE_URL=url, HEALTH_OPTIONAL="migrations") as app:
            assert app.get("/health")[0] == 200
            assert dependencies(app)["postgres"]["reason"] == "connection_refused"
            assert state(app) == "not_ready"
            proxy.mode = "pass"
            assert state(app) == "degraded"


def test_everything_else_goes_on_while_a_dependency_hangs(servers: Servers, tmp_path: Path) -> None:
    frozen = Valkey(tmp_path / "valkey")
    frozen.start()
    try:
        with VoiceAssistServer(REDIS_URL=frozen.url, WEB_CONCURRENCY="1", WEB_THREADS="3", HEALTH_TIMEOUT="1") as app:
            state(app)
            frozen.freeze()
            slow = threading.Thread(target=state, args=(app,))
            slow.start()
            for _ in range(20):
                began = time.monotonic()
                assert app.get("/health")[0] == 200
                assert time.monotonic() - began < NOISE / 2
            slow.join()
            began = time.monotonic()
            assert dependencies(app)["redis"]["reason"] == "timeout"
            assert time.monotonic() - began < 1 + 0.25 + NOISE
            assert [message for message in messages(app) if message.startswith("redis:")] == [
                "redis: healthy → unhealthy (timeout)"
            ]
            frozen.thaw()
            assert within(5, lambda: dependencies(app)["redis"]["reason"] is None)
            assert messages(app).count("redis: unhealthy → healthy") == 1
    finally:
        frozen.kill()


def test_requests_do_not_ask_a_database_that_is_known_to_hang(servers: Servers) -> None:
    """Each would hold its thread, and soon none would be left for probes."""

    web_session = {"Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}  # has to be looked up
    with Proxy(servers.postgres.port) as proxy:
        url = servers.postgres.url.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with VoiceAssistServer(DATABASE_URL=url, WEB_CONCURRENCY="1", WEB_THREADS="3", HEALTH_TIMEOUT="1") as app:

            def ask(_: int, server: VoiceAssistServer = app) -> int:
                return server.get("/admin/", headers=web_session, timeout=4)[0]  # sooner than connecting would give up

            state(app)
            with ThreadPoolExecutor(6) as clients:
                list(clients.map(ask, range(12)))  # each thread has its connection
            proxy.mode = "silent"
            assert within(5, lambda: dependencies(app)["postgres"]["reason"] == "timeout")
            assert [ask(number) for number in range(6)] == [503] * 6
            assert app.get("/health")[0] == 200
            proxy.mode = "pass"  # the requests find that out by themselves, without a probe of /ready
            assert within(10, lambda: ask(0) != 503)  # 500: this database has no tables


def test_probes_are_answered_while_every_thread_is_held(servers: Servers) -> None:
    """By clients that never finish their request."""
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
        with pytest.raises(TimeoutError):
            app.get("/", timeout=1)  # no thread is left
        for path in ("/health", "/health/", "/ready", "/ready/?x=1", "/metrics"):
            for method in ("GET", "HEAD"):
                began = time.monotonic()
                assert app.get(path, method=method)[0] in (200, 503)
                assert time.monotonic() - began < 1 + NOISE


def test_a_connection_from_which_nothing_has_come_holds_no_thread() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", WEB_THREADS="1") as app, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", app.port))) for _ in range(5)]
        assert app.get("/", timeout=3)[0] == 200
        idle[0].sendall(b"GET /health HTTP/1.0\r\n\r\n")
        idle[0].settimeout(10)
        assert idle[0].recv(12) == b"HTTP/1.0 200"


def test_a_connection_from_which_nothing_has_come_delays_no_stop() -> None:
    with (
        VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="0") as app,
        socket.create_connection(("127.0.0.1", app.port)),
    ):
        assert app.get("/health")[0] == 200
        app.terminate()
        assert app.process.wait(15) == 0  # gunicorn's graceful_timeout is 30 s


def test_an_outage_is_a_503_and_one_line_in_the_log() -> None:
    web_session = {"Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}
    with VoiceAssistServer(DATABASE_URL="postgres://u:p@127.0.0.1:1/db") as app:
        status, headers, body = app.get("/admin/", headers=web_session)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert b"not available right now" in body
        lines = [json.loads(line) for line in app.log().splitlines()]
        (line,) = [line for line in lines if line.get("trace_id") == headers["X-Request-ID"]]
        assert (line["status"], line["outage"], line["level"]) == (503, "OperationalError", "error")


# Draining


@pytest.mark.parametrize("workers", ["1", "3"])
def test_draining(workers: str) -> None:
    with VoiceAssistServer(WEB_CONCURRENCY=workers, DRAIN_SECONDS="3") as app:
        state(app)
        began = time.monotonic()
        app.terminate()
        assert within(NOISE, lambda: state(app) == "draining")
        drained = 0
        while time.monotonic() - began < 2:
            assert state(app) == "draining"
            assert app.get("/")[0] == 200
            assert app.get("/health")[0] == 200
            drained += 1
        assert drained > 10
        assert app.process.wait(10) == 0
        assert 3 <= time.monotonic() - began < 3 + 5
        with pytest.raises((OSError, http.client.HTTPException)):
            app.get("/health")


def test_what_is_in_flight_is_finished(servers: Servers) -> None:
    """A probe of a frozen server is the slowest request there is."""
    with Proxy(servers.redis.port) as proxy:
        url = servers.redis.url.replace(f":{servers.redis.port}", f":{proxy.port}")
        with VoiceAssistServer(DRAIN_SECONDS="0", REDIS_URL=url, HEALTH_TIMEOUT="3", WEB_CONCURRENCY="1") as app:
            state(app)
            proxy.mode = "silent"
            answers: list[int] = []
            slow = threading.Thread(target=lambda: answers.append(app.get("/ready")[0]))
            slow.start()
            assert within(5, lambda: proxy.discarded > 0)  # its check is under way
            app.terminate()
            slow.join(15)
            assert answers == [503]
            assert app.process.wait(10) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_now(second: signal.Signals) -> None:
    with VoiceAssistServer(DRAIN_SECONDS="60") as app:
        app.terminate()
        assert within(5, lambda: state(app) == "draining")
        began = time.monotonic()
        app.process.send_signal(second)
        assert app.process.wait(10) == 0
        assert time.monotonic() - began < 5


def test_sigint_stops_now() -> None:
    with VoiceAssistServer(DRAIN_SECONDS="60") as app:
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(10) == 0


def test_a_signal_to_stop_is_not_lost_on_a_worker_that_is_just_born(tmp_path: Path) -> None:
    slow = tmp_path / "gunicorn.py"
    slow.write_text(
        "import time\n"
        "from voiceassist.gunicorn import *\n"
        "def post_fork(server, worker):\n"
        "    if worker.age == 2: time.sleep(2)\n"
    )
    with VoiceAssistServer(config=str(slow)) as app:
        assert within(5, lambda: len(app.workers()) == 2)
        app.process.send_signal(signal.SIGINT)
        assert app.process.wait(10) == 0


def test_a_worker_that_is_born_while_draining_drains_too() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="8") as app:
        app.terminate()
        assert within(5, lambda: state(app) == "draining")
        (worker,) = app.workers()
        worker.kill()

        def answers() -> bool:
            try:
                return state(app) == "draining"
            except (OSError, http.client.HTTPException):
                return False

        assert within(5, answers)
        assert app.workers()[0].pid != worker.pid


def test_metric_files_do_not_outlive_the_server() -> None:
    with VoiceAssistServer(DRAIN_SECONDS="0") as app:
        assert len(list(app.folder.glob("voiceassist-metrics-*/*.db"))) > 1
        app.terminate()
        assert app.process.wait(10) == 0
        assert list(app.folder.glob("voiceassist-metrics-*")) == []


@pytest.mark.parametrize("behind", ["false", "true"])
def test_what_a_client_says_of_https_counts_only_behind_a_proxy(behind: str) -> None:
    with VoiceAssistServer(HTTPS_ONLY="true", BEHIND_PROXY=behind) as app:
        for headers in ({}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Ssl": "on"}, {"X-Forwarded-Protocol": "ssl"}):
            assert app.get("/", headers=headers)[0] == 301, headers
        status, found, _ = app.get("/", headers={"X-Forwarded-Proto": "https"})
        assert status == (200 if behind == "true" else 301)
        assert ("Strict-Transport-Security" in found) is (behind == "true")
        assert app.get("/health")[0] == 200
