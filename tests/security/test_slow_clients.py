"""Clients that send or read slowly, or not at all, hold neither the server's threads nor its connections for long.

Each attack has twice as many clients as all workers have threads.
"""

import http.client
import json
import re
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from copy import copy
from http.client import HTTPResponse
from pathlib import Path

import pytest
import trustme

from tests.support.haproxy import HAProxy, needs_haproxy
from tests.support.polling import NOISE, SLOWNESS, succeeds_within
from tests.support.slow_clients import HEAD, SlowClients
from tests.support.voiceassist_server import VoiceAssistServer
from voiceassist import gunicorn_worker

WORKERS, THREADS = 2, 2
CLIENTS = 2 * WORKERS * THREADS
REQUEST_TIMEOUT = 15  # seconds, of voiceassist/gunicorn_requests.py
RESPONSE_TIMEOUT = 15  # seconds
SLACK = 10 * SLOWNESS  # seconds, on a busy machine
MAX_BODY = 100 * 1024
GET = b"GET / HTTP/1.1\r\n" + HEAD
POST = b"POST /admin/login/ HTTP/1.1\r\n" + HEAD
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LARGE_FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"

# What is sent at once, and what follows byte by byte.
SLOW_REQUESTS = {
    "head": (GET, b"X: a\r\n"),
    "long head": (GET + b"X: " + b"x" * 5000, b"x"),
    "body": (POST + b"Content-Length: 1000\r\n\r\na=", b"x"),
    "long body": (POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000, b"x"),
    "body of an unknown length": (POST + CHUNKED + b"3e8\r\n", b"x"),
    "small chunks": (POST + CHUNKED, b"1\r\nx\r\n"),
    "body of a probe": (b"POST /health HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
    "second request": (GET + b"\r\n" + GET, b"X: a\r\n"),
    "second body": (GET + b"\r\n" + POST + b"Content-Length: 1000\r\n\r\n", b"x"),
}
# These connections end at the deadline, or after the timeout of idle connections.
IDLE_REQUESTS = {
    "body that never comes": POST + b"Content-Length: 1000\r\n\r\n",
    "body that is too large": POST + b"Content-Length: 1000000\r\n\r\n",
    "connection that is never closed": b"GET / HTTP/1.0\r\n\r\n",
    "malformed request": b"GET / HTTP/1.1\r\nX\r\n\r\n",
}


@pytest.fixture(scope="module")
def app() -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(WEB_CONCURRENCY=str(WORKERS), WEB_THREADS=str(THREADS)) as app:
        yield app


def seconds(app: VoiceAssistServer, path: str) -> float:
    """Return the median duration of a request, so that one delayed by the machine does not count."""
    durations = []
    for _ in range(5):
        start = time.monotonic()
        assert app.get(path)[0] == 200
        durations.append(time.monotonic() - start)
    return statistics.median(durations)


def assert_serves(app: VoiceAssistServer, control: float) -> None:
    for path in ("/health", "/"):
        assert seconds(app, path) < control + NOISE / 2, path


def send(port: int, *parts: bytes, pause: float = 0) -> tuple[HTTPResponse, bytes]:
    """Send the parts of a request, and return its response and the body of that."""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        response = HTTPResponse(client)
        response.begin()
        return response, response.read()


@pytest.mark.parametrize("kind", SLOW_REQUESTS)
def test_slow_requests_delay_no_other(app: VoiceAssistServer, kind: str) -> None:
    control = seconds(app, "/")
    start, rest = SLOW_REQUESTS[kind]
    with SlowClients(app.port, CLIENTS, start, rest=rest):
        assert_serves(app, control)


@pytest.mark.parametrize("kind", IDLE_REQUESTS)
def test_idle_clients_delay_no_request(app: VoiceAssistServer, kind: str) -> None:
    control = seconds(app, "/")
    with SlowClients(app.port, CLIENTS, IDLE_REQUESTS[kind]):
        assert_serves(app, control)


def test_silent_connections_delay_no_request(app: VoiceAssistServer) -> None:
    control = seconds(app, "/")
    with SlowClients(app.port, 300, b""):
        assert_serves(app, control)


def test_request_has_one_deadline(app: VoiceAssistServer) -> None:
    """The deadline does not start again with each byte."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(SlowClients(app.port, 1, start, rest=rest)) for start, rest in SLOW_REQUESTS.values()
        ]
        for client in clients:
            assert REQUEST_TIMEOUT - 2 < client.seconds_until_closed(REQUEST_TIMEOUT + SLACK) < REQUEST_TIMEOUT + SLACK


@pytest.mark.parametrize("path", [LARGE_FILE, LARGE_FILE.replace("/s", "/%73", 1)], ids=["path", "encoded path"])
def test_clients_that_do_not_read_delay_no_page_and_are_disconnected(app: VoiceAssistServer, path: str) -> None:
    control = seconds(app, "/")
    request = b"GET " + path.encode() + b" HTTP/1.1\r\n" + HEAD + b"\r\n"
    with SlowClients(app.port, WORKERS * THREADS, request * 20, receive_buffer=4096):
        assert_serves(app, control)
        assert succeeds_within(RESPONSE_TIMEOUT + SLACK, lambda: "does not take its response" in app.log())
    assert "Traceback" not in app.log()


def test_probes_whose_responses_nobody_reads_delay_no_request(app: VoiceAssistServer) -> None:
    """The main thread responds to them, so it must not wait for their clients."""
    control = seconds(app, "/")
    request = b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n"
    with SlowClients(app.port, WORKERS, request * 10_000, receive_buffer=4096):
        assert_serves(app, control)
        # The buffers of the sockets take thousands of responses first.
        assert succeeds_within(60, lambda: not any(map(app.connections, app.workers())))
    assert "Traceback" not in app.log()


def test_main_thread_does_not_wait_for_clients() -> None:
    """Not even for the two seconds in which another thread tries to send the response of a probe."""
    assert gunicorn_worker._short_timeout() == 0.0
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(gunicorn_worker._short_timeout).result() == 2.0


def test_pipelined_probes_are_all_served(app: VoiceAssistServer) -> None:
    paths = [b"/health", b"/ready", b"/none", b"/health", b"/metrics"] * 100
    requests = b"".join(b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"\r\n" for path in paths)
    last = b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n"
    statuses = []
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        sender = threading.Thread(target=client.sendall, args=(requests + last,))
        sender.start()
        with client.makefile("rb") as file:
            while line := file.readline():
                statuses.append(line.split()[1])
                length = 0
                while (header := file.readline()) != b"\r\n":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                file.read(length)
        sender.join(10)
    expected = {b"/none": b"404", b"/ready": b"503"}  # the server's database is not migrated
    assert statuses == [expected.get(path, b"200") for path in paths] + [b"200"]


@needs_haproxy
@pytest.mark.parametrize("kind", ["head", "body", "long body", "small chunks"])
def test_slow_requests_behind_haproxy_delay_no_other(proxy: VoiceAssistServer, kind: str) -> None:
    control = seconds(proxy, "/")
    start, rest = SLOW_REQUESTS[kind]
    with SlowClients(proxy.port, CLIENTS, start, rest=rest):
        assert_serves(proxy, control)


@pytest.fixture(scope="module")
def proxy(app: VoiceAssistServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoiceAssistServer]:
    """Yield the server, with the port of an HAProxy in front of it."""
    address = f"127.0.0.1:{app.port}"
    haproxy = HAProxy(tmp_path_factory.mktemp("haproxy"), "haproxy.cfg", APP1=address, APP2=address)
    haproxy.start()
    proxy = copy(app)
    proxy.port = haproxy.port
    try:
        haproxy.wait_for("alive", {"app1", "app2"})
        yield proxy
    finally:
        haproxy.kill()


@needs_haproxy
def test_haproxy_refuses_large_bodies(proxy: VoiceAssistServer) -> None:
    """HAProxy responds when it has buffered the beginning of the body."""
    response, body = send(proxy.port, POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), b"x" * 20_000)
    assert (response.status, json.loads(body)["error"]["code"]) == (413, "BAD_REQUEST")
    assert json.loads(body)["trace_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
        POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (MAX_BODY + 1),
        POST + b"Content-Length: 999999999999\r\n\r\nx",
        POST + CHUNKED + b"%x\r\n" % (MAX_BODY + 1),
        POST + CHUNKED + b"400\r\n%s\r\n" % (b"x" * 1024) * 101,  # in small chunks
    ],
)
def test_large_bodies_are_refused_before_they_have_arrived(app: VoiceAssistServer, request_: bytes) -> None:
    response, body = send(app.port, request_)
    assert response.status == 413
    assert b"<h1>Too much data</h1>" in body
    assert response.headers["Connection"] == "close"


def test_largest_body_is_accepted(app: VoiceAssistServer) -> None:
    body = b"x" * MAX_BODY
    assert send(app.port, POST + b"Content-Length: %d\r\n\r\n" % len(body), body)[0].status == 403  # no CSRF cookie


def test_too_long_head_is_refused(app: VoiceAssistServer) -> None:
    assert send(app.port, GET + b"X: " + b"x" * 40_000)[0].status == 400


def test_asks_once_for_the_body(app: VoiceAssistServer) -> None:
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        client.sendall(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert client.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"a=b")
        assert client.recv(12) == b"HTTP/1.1 403"


def test_application_gets_a_chunked_body(app: VoiceAssistServer) -> None:
    """Django ignores a body without a length. The token of this form is in its body."""
    token = b"t" * 32
    form = b"csrfmiddlewaretoken=%s&username=a" % token
    head = POST + b"Cookie: csrftoken=%s\r\nContent-Type: application/x-www-form-urlencoded\r\n" % token
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (form[:10], form[10:]))
    response, body = send(app.port, head + CHUNKED, chunks[:20], chunks[20:], b"0\r\nX: trailer\r\n\r\n", pause=0.1)
    assert (response.status, b"This field is required" in body) == (200, True)  # of the password


def test_malformed_chunks_are_refused(app: VoiceAssistServer) -> None:
    for chunks in (b"z\r\n", b"1\r\nxx\r\n0\r\n\r\n", b"1" * 9000):
        assert send(app.port, POST + CHUNKED + chunks)[0].status == 400


def test_truncated_request_never_reaches_the_application(app: VoiceAssistServer) -> None:
    before = app.log().count('"method": "POST"')
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        client.sendall(POST + b"Content-Length: 10\r\n\r\na=b")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert app.log().count('"method": "POST"') == before


def test_pipelined_requests_are_served_in_order(app: VoiceAssistServer) -> None:
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        last = b"GET /none HTTP/1.1\r\nConnection: close\r\n" + HEAD
        client.sendall(POST + b"Content-Length: 3\r\n\r\na=b" + GET + b"\r\n" + last)
        time.sleep(0.3)
        client.sendall(b"\r\n")
        with client.makefile("rb") as file:
            assert re.findall(rb"HTTP/1.1 (\d+)", file.read()) == [b"403", b"200", b"404"]


@pytest.mark.parametrize("zeros", [b"", b"0" * 20])
def test_body_is_never_mistaken_for_a_request(app: VoiceAssistServer, zeros: bytes) -> None:
    """It arrives late and looks like a request. A proxy would give the response to another client."""
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        last = b"GET /none HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n"
        body = GET + b"\r\n"
        client.sendall(POST + b"Content-Length: %s%d\r\n\r\n" % (zeros, len(body)))
        time.sleep(0.3)
        client.sendall(body + last)
        with client.makefile("rb") as file:
            assert re.findall(rb"HTTP/1.1 (\d+)", file.read()) == [b"403", b"404"]


def test_small_chunks_cost_little(app: VoiceAssistServer) -> None:
    """100 kB of them took 1.4 s of CPU time when gunicorn copied the rest of the buffer for each chunk."""
    request = POST + b"Connection: close\r\n" + CHUNKED + b"1\r\nx\r\n" * 17_000 + b"0\r\n\r\n"
    before = cpu_seconds(app)
    for _ in range(5):
        assert send(app.port, request)[0].status == 403
    assert cpu_seconds(app) - before < 2.5


def cpu_seconds(app: VoiceAssistServer) -> float:
    return sum(sum(worker.cpu_times()[:2]) for worker in app.workers())


def client_addresses(app: VoiceAssistServer) -> list[tuple[str, int]]:
    """Return the addresses of the clients whose connections the workers have accepted."""
    return [tuple(item.raddr) for worker in app.workers() for item in app.connections(worker)]


def test_request_that_has_begun_to_arrive_is_served_while_the_server_stops() -> None:
    """A stopping worker closes other connections after two seconds."""
    with (
        VoiceAssistServer(DRAIN_SECONDS="0") as app,
        closing(socket.create_connection(("127.0.0.1", app.port))) as client,
    ):
        client.sendall(POST + b"Content-Length: 3\r\n\r\na")
        assert succeeds_within(10, lambda: client.getsockname() in client_addresses(app))
        app.terminate()
        time.sleep(3)
        client.sendall(b"=b")
        client.settimeout(30)
        assert client.recv(12) == b"HTTP/1.1 403"
        assert app.process.wait(30) == 0


class TLSServer(VoiceAssistServer):
    context: ssl.SSLContext

    def get(self, path: str, **_: object) -> tuple[int, dict[str, str], bytes]:
        """Send two requests on one connection, and return the second response."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.context)
        with closing(connection):
            for body in (b"a=b", None):
                connection.request("POST" if body else "GET", path, body)
                response = connection.getresponse()
                content = response.read()
        return response.status, dict(response.getheaders()), content


def test_requests_over_tls_are_served(tmp_path: Path) -> None:
    """Requests over TLS are not buffered, because only a thread decrypts them."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    TLSServer.context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with TLSServer("--certfile", str(tmp_path / "server.pem"), WEB_CONCURRENCY="1") as app:
        assert app.get("/")[0] == 200
