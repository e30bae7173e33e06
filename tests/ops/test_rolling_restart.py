"""Two servers behind HAProxy: a rolling restart under load loses no request, and a lost dependency no page."""

import contextlib
import http.client
import json
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
DRAIN = 2  # seconds; the balancer checks twice a second


class Load(Clients):
    """Clients that each ask again as soon as they are answered, on connections that they keep."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        super().__init__(*[self._client] * CLIENTS)

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                self.answers[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
            time.sleep(0.005)
        connection.close()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[HAProxy]:
    """In front of two ports on which nothing listens yet."""
    addresses = {f"APP{number}": f"127.0.0.1:{free_port()}" for number in (1, 2)}
    balancer = HAProxy(tmp_path, "haproxy.cfg", **addresses)
    balancer.start()
    yield balancer
    balancer.kill()


def ports(haproxy: HAProxy) -> list[int]:
    return [int(haproxy.environment[name].rpartition(":")[2]) for name in ("APP1", "APP2")]


def ask(haproxy: HAProxy, path: str = "/") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", haproxy.port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@needs_haproxy
def test_no_request_is_lost(servers: Servers, haproxy: HAProxy) -> None:
    """None is saved by a retry either, which only a GET may be. The server drains before it closes."""
    environment = {"DRAIN_SECONDS": str(DRAIN), "HEALTH_OPTIONAL": "migrations", "WEB_CONCURRENCY": "2"}
    with contextlib.ExitStack() as stack:

        def start(port: int) -> VoiceAssistServer:
            return stack.enter_context(VoiceAssistServer(port=port, **environment))

        running = [start(port) for port in ports(haproxy)]
        haproxy.wait_for("servers", {"app1", "app2"})
        with Load(haproxy.port) as load:
            time.sleep(1)
            for old in running:
                old.terminate()
                assert old.process.wait(30) == 0
                start(old.port)
                haproxy.wait_for("servers", {"app1", "app2"})
    assert load.lost == []
    assert set(load.answers) == {200}
    assert load.answers[200] > 500
    assert sum(int(row["wretr"]) + int(row["wredis"]) for row in haproxy.rows() if row["svname"] == "BACKEND") == 0


@needs_haproxy
def test_servers_that_are_alive_serve_while_none_is_ready(servers: Servers, haproxy: HAProxy) -> None:
    """A dependency that all servers share fails them all at once, and most pages need it not."""
    with Proxy(servers.redis.port) as first, Proxy(servers.redis.port) as second, contextlib.ExitStack() as stack:
        for redis, port in zip((first, second), ports(haproxy), strict=True):
            url = servers.redis.url.replace(f":{servers.redis.port}/", f":{redis.port}/")
            stack.enter_context(
                VoiceAssistServer(port=port, REDIS_URL=url, HEALTH_OPTIONAL="migrations", WEB_CONCURRENCY="1")
            )
        haproxy.wait_for("servers", {"app1", "app2"})
        assert ask(haproxy, "/metrics")[0] == 403
        before = haproxy.requests()
        assert ask(haproxy)[0] == 200
        assert haproxy.requests()["alive", "BACKEND"] == before["alive", "BACKEND"] == 0

        first.mode = second.mode = "refuse"
        haproxy.wait_for("servers", set())
        haproxy.wait_for("alive", {"app1", "app2"})
        for _ in range(4):
            assert ask(haproxy)[0] == ask(haproxy, "/api/docs/")[0] == 200
        status, _, body = ask(haproxy, "/ready")
        assert status == 503
        assert json.loads(body)["error"]["details"]["dependencies"]["redis"]["reason"] == "connection_refused"
        assert ask(haproxy, "/metrics")[0] == 403
        used = haproxy.requests()
        assert used["alive", "app1"] > 0
        assert used["alive", "app2"] > 0

        second.mode = "pass"  # and at once that server alone is used
        haproxy.wait_for("servers", {"app2"})
        before = haproxy.requests()
        for _ in range(6):
            assert ask(haproxy)[0] == 200
        after = haproxy.requests()
        assert after["alive", "BACKEND"] == before["alive", "BACKEND"]
        assert after["servers", "app2"] - before["servers", "app2"] == 6


@needs_haproxy
def test_without_a_server_the_answer_has_the_usual_shape(haproxy: HAProxy) -> None:
    haproxy.wait_for("alive", set())
    status, headers, body = ask(haproxy, "/admin/")
    answer = json.loads(body)
    assert status == 503
    assert headers["content-type"] == "application/json"
    assert headers["retry-after"] == "5"
    assert headers["cache-control"] == "no-store"
    assert set(answer) == {"success", "data", "error", "trace_id", "timestamp"}
    assert (answer["success"], answer["data"], answer["error"]["code"]) == (False, None, "NOT_READY")
    assert set(answer["error"]) == {"code", "message", "details"}
    assert answer["trace_id"] == headers["x-request-id"]
    assert datetime.fromisoformat(answer["timestamp"]).tzinfo is not None
