"""Staff browse the admin while the Redis primary is killed, then the next one frozen: no page fails, no login ends.

The servers reach Redis by the Sentinels or by HAProxy, as `ops/haproxy-redis.cfg` has it.
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
from tests.support.sentinel import PASSWORD as REDIS_PASSWORD
from tests.support.sentinel import QUOTED, Group, Redis, succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "ann@example.org", "a long password"
PAGES = ("/admin/", "/admin/core/user/", "/admin/core/session/", "/admin/core/user/add/", "/admin/status/")
BROWSERS = 4

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    """The URL of a migrated database with a staff user."""
    return database_with_staff(servers.postgres, "failover", EMAIL, PASSWORD)


class Browsing(Clients):
    """Staff who each ask for the next page as soon as they have one, and a probe of readiness ten times a second."""

    def __init__(self, app: VoiceAssistServer) -> None:
        self._app = app
        self.pages: Counter[int] = Counter()
        self.failed: list[str] = []
        self.slowest = 0.0  # since the last round began
        self.probes: list[tuple[float, int]] = []
        staff = [self._login() for _ in range(BROWSERS)]
        super().__init__(*(partial(self._browse, client) for client in staff), self._probe)

    def _login(self) -> httpx.Client:
        client = httpx.Client(base_url=self._app.url, timeout=30)
        client.get("/admin/login/")
        form = {"username": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/?next=/admin/", data=form).status_code == 302
        return client

    def _browse(self, client: httpx.Client) -> None:
        with closing(client):
            while not self._stop.is_set():
                for page in PAGES:
                    began = time.monotonic()
                    try:
                        status = client.get(page).status_code
                    except httpx.HTTPError as error:
                        self.failed.append(f"{page}: {error!r}")
                        continue
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self.pages[status] += 1
                    if status != 200:  # 302 is the way to the login page
                        self.failed.append(f"{page}: {status}")
                time.sleep(0.01)

    def _probe(self) -> None:
        with httpx.Client(base_url=self._app.url, timeout=30) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                self.probes.append((began, client.get("/ready").status_code))
                time.sleep(0.1)

    def not_ready_since(self, moment: float) -> tuple[float, float]:
        """Returns when /ready was first and last not 200, in seconds after the moment."""
        times = [when - moment for when, status in self.probes if when >= moment and status != 200]
        return (min(times), max(times)) if times else (0.0, 0.0)

    def is_ready(self, for_seconds: float = 2.0) -> bool:
        recent = [status for when, status in self.probes if when > time.monotonic() - for_seconds]
        return set(recent) == {200}


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with Group(tmp_path) as group:
        yield group


@contextmanager
def in_front(group: Group, folder: Path, password: str = REDIS_PASSWORD) -> Iterator[HAProxy]:
    addresses = {f"REDIS{n}": f"127.0.0.1:{node.port}" for n, node in enumerate(group.nodes, start=1)}
    proxy = HAProxy(folder, "haproxy-redis.cfg", REDIS_PASSWORD=password, **addresses)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.kill()


def name_of(group: Group, node: Redis) -> str:
    """Returns what the proxy calls it."""
    return f"redis{group.nodes.index(node) + 1}"


@pytest.fixture(params=["sentinel", pytest.param("haproxy", marks=needs_haproxy)])
def url(request: pytest.FixtureRequest, group: Group, tmp_path: Path) -> Iterator[str]:
    if request.param == "sentinel":
        yield group.url()
        return
    with in_front(group, tmp_path / "haproxy") as proxy:
        proxy.wait_for("redis", {name_of(group, group.primary)})
        yield f"redis://:{QUOTED}@127.0.0.1:{proxy.port}/0"


def lose(group: Group, fault: str) -> tuple[list[Valkey], float]:
    """Loses the machine of the primary, on which a Sentinel runs too, and waits until another one is primary.

    Returns what was lost and when.
    """
    primary, began = group.primary, time.monotonic()
    lost: list[Valkey] = [primary, group.sentinels[0]]
    for server in lost:
        getattr(server, fault)()
    assert succeeds_within(30, lambda: group.primary is not primary)
    return lost, began


def test_no_page_fails(database: str, group: Group, url: str, record_property: Callable[[str, object], None]) -> None:
    with (
        VoiceAssistServer(DATABASE_URL=database, REDIS_URL=url, WEB_CONCURRENCY="2", HEALTH_MAX_AGE="0.5") as app,
        Browsing(app) as browsing,
    ):
        assert succeeds_within(20, browsing.is_ready)
        for fault in ("kill", "freeze"):
            pages, browsing.slowest = browsing.pages[200], 0.0
            lost, began = lose(group, fault)
            promoted = time.monotonic() - began
            assert succeeds_within(20, browsing.is_ready)
            figures = {
                "promoted after": round(promoted, 1),
                "not ready from and to": [round(t, 1) for t in browsing.not_ready_since(began)],
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
def test_the_proxy_leads_to_the_primary_alone(group: Group, tmp_path: Path) -> None:
    with in_front(group, tmp_path / "haproxy") as proxy:

        def port() -> str | None:
            """Returns the port of the server that a new connection leads to."""
            with redis.Redis(
                port=proxy.port, password=REDIS_PASSWORD, socket_timeout=2, retry=Retry(NoBackoff(), 0)
            ) as r:
                try:
                    return str(r.config_get("port")["port"])
                except redis.RedisError:
                    return None

        old = group.primary
        new = next(node for node in group.nodes if node is not old)
        proxy.wait_for("redis", {name_of(group, old)})
        assert port() == str(old.port)
        with redis.Redis(
            port=proxy.port, password=REDIS_PASSWORD, socket_timeout=20, retry=Retry(NoBackoff(), 0)
        ) as waiting:
            assert waiting.ping()
            old.freeze()
            began = time.monotonic()
            with pytest.raises(redis.ConnectionError):  # the proxy ends what waits for the frozen one
                waiting.ping()
            assert time.monotonic() - began < 15
        assert succeeds_within(30, lambda: port() == str(new.port))
        old.thaw()
        both = {name_of(group, old), name_of(group, new)}
        proxy.wait_for("redis", both)  # the old one takes itself for the primary still
        for _ in range(20):
            assert port() == str(new.port)
        proxy.wait_for("redis", {name_of(group, new)}, seconds=60)
        assert port() == str(new.port)


@needs_haproxy
def test_the_proxy_trusts_no_server_that_refuses_the_password(group: Group, tmp_path: Path) -> None:
    with in_front(group, tmp_path / "haproxy", password="wrong") as proxy:
        proxy.wait_for("redis", set())
