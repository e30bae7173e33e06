"""Failover of Redis while staff browse the admin: no page fails and no login is lost.

The primary is killed, then the next primary is frozen. The application reaches Redis through Sentinel or through
HAProxy with `ops/haproxy-redis.cfg`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.dependency_servers import Valkey
from tests.support.haproxy import HAProxy, needs_haproxy
from tests.support.load_clients import Clients
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.sentinel import PASSWORD as REDIS_PASSWORD
from tests.support.sentinel import QUOTED, Group, Redis
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "ann@example.org", "a long password"
PAGES = ("/admin/", "/admin/core/user/", "/admin/core/session/", "/admin/core/user/add/", "/admin/status/")
BROWSERS = 4

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    """Return the URL of a migrated database with a staff user."""
    return database_with_staff(servers.postgres, "failover", EMAIL, PASSWORD)


class Browsing(Clients):
    """Staff who request one page after another, and a readiness probe ten times a second."""

    def __init__(self, app: VoiceAssistServer) -> None:
        self._app = app
        self.pages: Counter[int] = Counter()
        self.failed: list[str] = []
        self.slowest = 0.0  # seconds, since the last fault
        self.probes: list[tuple[float, int]] = []
        staff = [app.log_in(EMAIL, PASSWORD) for _ in range(BROWSERS)]
        super().__init__(*(partial(self._browse, client) for client in staff), self._probe)

    def _browse(self, client: httpx.Client) -> None:
        with closing(client):
            while not self._stop.is_set():
                for page in PAGES:
                    started_at = time.monotonic()
                    try:
                        status = client.get(page).status_code
                    except httpx.HTTPError as error:
                        self.failed.append(f"{page}: {error!r}")
                        continue
                    self.slowest = max(self.slowest, time.monotonic() - started_at)
                    self.pages[status] += 1
                    if status != 200:  # 302 would be a redirect to the login page
                        self.failed.append(f"{page}: {status}")
                time.sleep(0.01)

    def _probe(self) -> None:
        with httpx.Client(base_url=self._app.url, timeout=30) as client:
            while not self._stop.is_set():
                started_at = time.monotonic()
                self.probes.append((started_at, client.get("/ready").status_code))
                time.sleep(0.1)

    def not_ready_since(self, since: float) -> tuple[float, float]:
        """Return when /ready was first and last not 200, in seconds after `since`."""
        times = [at - since for at, status in self.probes if at >= since and status != 200]
        return (min(times), max(times)) if times else (0.0, 0.0)

    def is_ready(self, for_seconds: float = 2.0) -> bool:
        recent = [status for at, status in self.probes if at > time.monotonic() - for_seconds]
        return set(recent) == {200}


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with Group(tmp_path) as group:
        yield group


@contextmanager
def running_proxy(group: Group, folder: Path, password: str = REDIS_PASSWORD) -> Iterator[HAProxy]:
    addresses = {f"REDIS{n}": f"127.0.0.1:{node.port}" for n, node in enumerate(group.nodes, start=1)}
    proxy = HAProxy(folder, "haproxy-redis.cfg", REDIS_PASSWORD=password, **addresses)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.kill()


def name_of(group: Group, node: Redis) -> str:
    """Return the name of `node` in the configuration of the proxy."""
    return f"redis{group.nodes.index(node) + 1}"


@pytest.fixture(params=["sentinel", pytest.param("haproxy", marks=needs_haproxy)])
def url(request: pytest.FixtureRequest, group: Group, tmp_path: Path) -> Iterator[str]:
    if request.param == "sentinel":
        yield group.url()
        return
    with running_proxy(group, tmp_path / "haproxy") as proxy:
        proxy.wait_for("redis", {name_of(group, group.primary)})
        yield f"redis://:{QUOTED}@127.0.0.1:{proxy.port}/0"


def lose(group: Group, fault: str) -> tuple[list[Valkey], float]:
    """Kill or freeze the primary and one Sentinel, as if their machine failed, and wait for another primary.

    Return the lost servers and the time of the fault.
    """
    primary, started_at = group.primary, time.monotonic()
    lost: list[Valkey] = [primary, group.sentinels[0]]
    for server in lost:
        getattr(server, fault)()
    assert succeeds_within(30, lambda: group.primary is not primary)
    return lost, started_at


def test_no_page_fails_during_failover(
    database: str, group: Group, url: str, record_property: Callable[[str, object], None]
) -> None:
    with (
        VoiceAssistServer(DATABASE_URL=database, REDIS_URL=url, WEB_CONCURRENCY="2", HEALTH_MAX_AGE="0.5") as app,
        Browsing(app) as browsing,
    ):
        assert succeeds_within(20, browsing.is_ready)
        for fault in ("kill", "freeze"):
            pages, browsing.slowest = browsing.pages[200], 0.0
            lost, started_at = lose(group, fault)
            promoted = time.monotonic() - started_at
            assert succeeds_within(20, browsing.is_ready)
            figures = {
                "promoted after": round(promoted, 1),
                "not ready from and to": [round(t, 1) for t in browsing.not_ready_since(started_at)],
                "pages": browsing.pages[200] - pages,
                "slowest": round(browsing.slowest, 2),
            }
            record_property(fault, figures)
            print(fault, figures)
            for server in lost:
                server.start() if fault == "kill" else server.thaw()
            assert succeeds_within(60, group.is_settled)
            assert browsing.is_ready()
    assert browsing.failed == []
    assert browsing.pages[200] > 100


@needs_haproxy
def test_proxy_connects_only_to_the_primary(group: Group, tmp_path: Path) -> None:
    with running_proxy(group, tmp_path / "haproxy") as proxy:

        def port() -> str | None:
            """Return the port of the server that a new connection reaches."""
            with redis.Redis(
                port=proxy.port, password=REDIS_PASSWORD, socket_timeout=2, retry=Retry(NoBackoff(), 0)
            ) as client:
                try:
                    return str(client.config_get("port")["port"])
                except redis.RedisError:
                    return None

        old = group.primary
        new = next(node for node in group.nodes if node is not old)
        proxy.wait_for("redis", {name_of(group, old)})
        assert port() == str(old.port)
        with redis.Redis(
            port=proxy.port, password=REDIS_PASSWORD, socket_timeout=20 * SLOWNESS, retry=Retry(NoBackoff(), 0)
        ) as waiting:
            assert waiting.ping()
            old.freeze()
            started_at = time.monotonic()
            with pytest.raises(redis.ConnectionError):  # the proxy closes connections to the frozen server
                waiting.ping()
            assert time.monotonic() - started_at < 15 * SLOWNESS
        assert succeeds_within(30, lambda: port() == str(new.port))
        old.thaw()
        servers = {name_of(group, old), name_of(group, new)}
        proxy.wait_for("redis", servers)  # the old server still acts as primary
        for _ in range(20):
            assert port() == str(new.port)
        proxy.wait_for("redis", {name_of(group, new)}, seconds=60)
        assert port() == str(new.port)


@needs_haproxy
def test_proxy_uses_no_server_that_refuses_the_password(group: Group, tmp_path: Path) -> None:
    with running_proxy(group, tmp_path / "haproxy", password="wrong") as proxy:
        proxy.wait_for("redis", set())
