"""Connections that a firewall has forgotten are no outage. A forked process opens its own, its parent's stay usable."""

import gc
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from django.conf import settings
from django.core.cache import cache
from django.db import connections

from core.clients import qdrant
from health import readiness
from health.check_runner import Runner
from health.checks import checks
from tests.support.forks import exit_code_in_fork
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.proxy import Proxy, TlsProxy
from tests.support.readiness import RedisUrl, check

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
TIMEOUT = 20.0  # seconds, because a busy machine delays a new process
KEPT_ALIVE = "127.1"  # the address 127.0.0.1; with the usual names of this host, Qdrant's client keeps no connection


def in_fork(action: Callable[[], object]) -> bool:
    """Return whether `action` returns a true value in a forked process, which then drops all its connections."""

    def run() -> None:
        assert action()
        drop_readiness_connections()
        qdrant._network_client.cache_clear()
        gc.collect()

    return exit_code_in_fork(run) == 0


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context


@pytest.fixture(autouse=True)
def clean_up() -> Iterator[None]:
    yield
    drop_readiness_connections()
    qdrant._network_client.cache_clear()


def point_at(name: str, servers: Servers, port: int, monkeypatch: pytest.MonkeyPatch, use_url: RedisUrl) -> None:
    if name == "redis":
        use_url(servers.redis.url.replace(f":{servers.redis.port}", f":{port}"))
    elif name == "qdrant":
        monkeypatch.setattr(settings, "QDRANT_URL", f"http://{KEPT_ALIVE}:{port}")
    else:
        monkeypatch.setitem(connections.settings["default"], "PORT", str(port))
    drop_readiness_connections()


@pytest.mark.parametrize("name", ["postgres", "redis", "qdrant"])
def test_readiness_after_fork(name: str, servers: Servers, monkeypatch: pytest.MonkeyPatch, use_url: RedisUrl) -> None:
    with Proxy(getattr(servers, name).port) as proxy:
        point_at(name, servers, proxy.port, monkeypatch, use_url)
        assert check(name, TIMEOUT).healthy
        assert in_fork(lambda: check(name, TIMEOUT).healthy)
        assert proxy.accepted == 2
        assert in_fork(lambda: True)
        assert check(name, TIMEOUT).healthy
        assert proxy.accepted == 2  # the parent still uses its first connection


@pytest.mark.parametrize("name", ["redis", "qdrant"])
def test_readiness_with_tls_after_fork(
    name: str,
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    use_url: RedisUrl,
    certificate: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    with TlsProxy(getattr(servers, name).port, certificate) as proxy:
        if name == "redis":
            url = servers.redis.url.replace("redis:", "rediss:").replace(f":{servers.redis.port}", f":{proxy.port}")
            use_url(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        else:
            monkeypatch.setattr(settings, "QDRANT_URL", f"https://127.0.0.1:{proxy.port}")
        assert check(name, TIMEOUT).healthy
        assert in_fork(lambda: check(name, TIMEOUT).healthy)
        assert proxy.tls_connections == 2
        assert check(name, TIMEOUT).healthy
        assert proxy.tls_connections == 2


def use_cache() -> bool:
    cache.set("key", "value")
    return bool(cache.get("key") == "value")


def use_qdrant() -> bool:
    with qdrant.client() as client:
        return client.get_collections() is not None


@pytest.mark.parametrize(("name", "use"), [("redis", use_cache), ("qdrant", use_qdrant)])
def test_client_after_fork(
    name: str, use: Callable[[], bool], servers: Servers, monkeypatch: pytest.MonkeyPatch, use_url: RedisUrl
) -> None:
    with Proxy(getattr(servers, name).port) as proxy:
        point_at(name, servers, proxy.port, monkeypatch, use_url)
        qdrant._network_client.cache_clear()
        assert use()
        assert in_fork(use)
        assert proxy.accepted == 2
        assert use()
        assert proxy.accepted == 2


@pytest.mark.django_db
def test_forgotten_connections_are_no_outage(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, use_url: RedisUrl
) -> None:
    """Requests and responses on the open connections vanish, and new connections work."""
    runner = Runner(checks(), timeout=4, max_age=0, explain=readiness.explain)
    with ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(getattr(servers, name).port)) for name in ("postgres", "redis", "qdrant")]
        for name, proxy in zip(("postgres", "redis", "qdrant"), proxies, strict=True):
            point_at(name, servers, proxy.port, monkeypatch, use_url)
        assert {result.name: result.reason for result in runner.report().results if result.reason} == {}
        # The checks `migrations` and `queue` share a connection to PostgreSQL.
        assert [proxy.accepted for proxy in proxies] == [2, 2, 1]
        for proxy in proxies:
            proxy.forget_connections()
        assert {result.name: result.reason for result in runner.report().results if result.reason} == {}
        assert all(proxy.discarded for proxy in proxies)
        drop_readiness_connections()
