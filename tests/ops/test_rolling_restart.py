"""Two servers behind HAProxy: a rolling restart loses no request, and most pages work while none is ready."""

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.dependency_servers import free_port
from tests.support.haproxy import HAProxy, needs_haproxy
from tests.support.load_clients import Clients
from tests.support.plugin import Servers
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer

CLIENTS = 8
DRAIN_SECONDS = 2  # HAProxy checks twice per second


class Load(Clients):
    """Clients that send requests back to back on persistent connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.responses: Counter[int] = Counter()
        self.errors: list[str] = []
        super().__init__(*[self._client] * CLIENTS)

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                self.responses[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                connection.close()
            time.sleep(0.005)
        connection.close()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[HAProxy]:
    """Yield HAProxy in front of two ports on which nothing listens yet."""
    addresses = {f"APP{number}": f"127.0.0.1:{free_port()}" for number in (1, 2)}
    with HAProxy(tmp_path, "haproxy.cfg", **addresses) as haproxy:
        yield haproxy


def server_ports(haproxy: HAProxy) -> list[int]:
    return [int(haproxy.environment[name].rpartition(":")[2]) for name in ("APP1", "APP2")]


# Each of these leads to the metrics without a load balancer in front.
METRICS = (
    "/metrics",
    "/metrics/",
    "/metrics%2F",
    "/%6Detrics",
    "/%6detrics?x=1",
    "/m%65%74rics/",
    "http://h/%6detrics",
    "http:///metrics",
)
# These don't, and must not if a proxy or gunicorn should normalise them one day.
NORMALISED = ("//metrics", "/./metrics", "/x/../metrics", "/%2e/metrics", "/x/%2e%2e/metrics", "/%256Detrics")


def get(haproxy: HAProxy, path: str = "/") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", haproxy.port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": "h"} if path.startswith("http") else {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@needs_haproxy
def test_rolling_restart_loses_no_request(servers: Servers, haproxy: HAProxy) -> None:
    """Servers drain before they close, so that not even retries are needed, which would only be safe for GET."""
    environment = {"DRAIN_SECONDS": str(DRAIN_SECONDS), "HEALTH_OPTIONAL": "migrations", "WEB_CONCURRENCY": "2"}
    with contextlib.ExitStack() as stack:

        def start(port: int) -> VoiceAssistServer:
            return stack.enter_context(VoiceAssistServer(port=port, **environment))

        running = [start(port) for port in server_ports(haproxy)]
        haproxy.wait_for("servers", {"app1", "app2"})
        with Load(haproxy.port) as load:
            time.sleep(1)
            for server in running:
                server.terminate()
                assert server.process.wait(30) == 0
                assert "The last request came " in server.log()
                start(server.port)
                haproxy.wait_for("servers", {"app1", "app2"})
    assert load.errors == []
    assert set(load.responses) == {200}
    assert load.responses[200] > 500
    assert sum(int(row["wretr"]) + int(row["wredis"]) for row in haproxy.rows() if row["svname"] == "BACKEND") == 0


@needs_haproxy
def test_slow_clients_hold_no_thread(haproxy: HAProxy) -> None:
    head = f"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken={'c' * 32}\r\n".encode()
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for port in server_ports(haproxy):
            stack.enter_context(VoiceAssistServer(port=port, WEB_CONCURRENCY="1", WEB_THREADS="1"))
        haproxy.wait_for("alive", {"app1", "app2"})
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", haproxy.port)))
            client.sendall(head + form + b"a")
        for _ in range(4):
            assert get(haproxy)[0] == 200
        client.sendall(b"=" * 8)
        client.settimeout(5)
        assert client.recv(12) == b"HTTP/1.1 403"  # the form has no CSRF token


@needs_haproxy
def test_routes_to_live_servers_while_none_is_ready(servers: Servers, haproxy: HAProxy) -> None:
    """An outage of a shared dependency makes every server unready, but most pages work without it."""
    with Proxy(servers.redis.port) as first, Proxy(servers.redis.port) as second, contextlib.ExitStack() as stack:
        for redis, port in zip((first, second), server_ports(haproxy), strict=True):
            url = servers.redis.url.replace(f":{servers.redis.port}/", f":{redis.port}/")
            stack.enter_context(
                VoiceAssistServer(port=port, REDIS_URL=url, HEALTH_OPTIONAL="migrations", WEB_CONCURRENCY="1")
            )
        haproxy.wait_for("servers", {"app1", "app2"})
        for path in METRICS:
            assert get(haproxy, path)[0] == 403, path
        for path in NORMALISED:
            assert get(haproxy, path)[0] == 404, path
        before = haproxy.requests()
        assert get(haproxy)[0] == 200
        assert haproxy.requests()["alive", "BACKEND"] == before["alive", "BACKEND"] == 0

        first.mode = second.mode = "refuse"
        haproxy.wait_for("servers", set())
        haproxy.wait_for("alive", {"app1", "app2"})
        for _ in range(4):
            assert get(haproxy)[0] == get(haproxy, "/api/docs/")[0] == 200
        status, _, body = get(haproxy, "/ready")
        assert status == 503
        assert json.loads(body)["error"]["details"]["dependencies"]["redis"]["reason"] == "connection_refused"
        assert get(haproxy, "/metrics")[0] == 403
        requests = haproxy.requests()
        assert requests["alive", "app1"] > 0
        assert requests["alive", "app2"] > 0

        second.mode = "pass"  # from now on, HAProxy uses this server only
        haproxy.wait_for("servers", {"app2"})
        before = haproxy.requests()
        for _ in range(6):
            assert get(haproxy)[0] == 200
        after = haproxy.requests()
        assert after["alive", "BACKEND"] == before["alive", "BACKEND"]
        assert after["servers", "app2"] - before["servers", "app2"] == 6


@needs_haproxy
def test_returns_the_error_envelope_without_a_server(haproxy: HAProxy) -> None:
    haproxy.wait_for("alive", set())
    status, headers, body = get(haproxy, "/admin/")
    envelope = json.loads(body)
    assert status == 503
    assert headers["content-type"] == "application/json"
    assert headers["retry-after"] == "5"
    assert headers["cache-control"] == "no-store"
    assert set(envelope) == {"success", "data", "error", "trace_id", "timestamp"}
    assert (envelope["success"], envelope["data"], envelope["error"]["code"]) == (False, None, "NOT_READY")
    assert set(envelope["error"]) == {"code", "message", "details"}
    assert envelope["trace_id"] == headers["x-request-id"]
    assert datetime.fromisoformat(envelope["timestamp"]).tzinfo is not None
