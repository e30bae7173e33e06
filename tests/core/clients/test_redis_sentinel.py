"""Readiness and the cache follow the failover of a real Redis group under Sentinel."""

import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import trustme
from django.core.cache import cache as django_cache

from core.clients import redis_url
from health.check_runner import Result
from tests.support.plugin import drop_readiness_connections
from tests.support.polling import SLOWNESS, ends_within, succeeds_within
from tests.support.readiness import RedisUrl
from tests.support.readiness import check as check_once
from tests.support.sentinel import PASSWORD, QUOTED, SENTINEL_PASSWORD, SENTINEL_QUOTED, SERVICE, Group
from tests.support.voiceassist_server import ROOT

TIMEOUT = 1.0
MAX_FAILOVER = 20.0  # seconds; after a split vote, Sentinels retry after twice their failover-timeout

cache: Any = django_cache  # django-redis' methods return more than Django's


@pytest.fixture(scope="module")
def shared_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Yield a group for tests that do not change it."""
    with Group(tmp_path_factory.mktemp("shared_group")) as group:
        yield group


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with Group(tmp_path) as group:
        yield group


def check(timeout: float = TIMEOUT) -> Result:
    timeout *= SLOWNESS
    with ends_within(timeout):
        result = check_once("redis", timeout)
    assert not any(secret in result.detail for secret in (PASSWORD, QUOTED, SENTINEL_PASSWORD, SENTINEL_QUOTED))
    return result


def completes_within(seconds: float, action: Callable[[], Any]) -> Any:
    with ends_within(seconds):
        return action()


def cache_pool() -> Any:
    return cache.client.get_client().connection_pool


# Readiness


def test_detail_names_the_primary_and_the_service(use_url: RedisUrl, shared_group: Group) -> None:
    use_url(shared_group.url())
    result = check()
    assert result.healthy, result
    assert result.detail.startswith(
        f"127.0.0.1:{shared_group.primary.port}, primary of {SERVICE}, Sentinels 127.0.0.1:"
    )
    assert result.version


def test_failure_reasons(use_url: RedisUrl, shared_group: Group) -> None:
    url = shared_group.url()
    first = f"127.0.0.1:{shared_group.sentinels[0].port}"
    sentinels = url.partition("@")[2].partition("/")[0]
    for wrong_url, expected in [
        (url.replace(QUOTED, "wrong"), "auth_failed"),
        (url.replace(SENTINEL_QUOTED, "wrong"), "auth_failed"),
        (url.partition("?")[0], "auth_failed"),
        (url.replace(SERVICE, SERVICE.lower()), "misconfigured"),
        (url.replace("/0?", "/99?"), "misconfigured"),
        (url.replace(sentinels, "127.0.0.1:1,127.0.0.1:2"), "connection_refused"),
        (url.replace(sentinels, "no-such-host.invalid"), "dns_failure"),
        (url.replace(sentinels, f"no-such-host.invalid,127.0.0.1:1,{first}"), None),
        (url.replace(sentinels, f"127.0.0.1:{shared_group.primary.port}"), "auth_failed"),  # Redis has another password
        (f"redis://:{SENTINEL_QUOTED}@{first}/0", "misconfigured"),
    ]:
        use_url(wrong_url)
        result = check(timeout=5)
        assert result.reason == expected, (wrong_url, result)


@pytest.mark.parametrize("options", ["", "&protocol=3"])
def test_user_of_sentinel_needs_one_permission(use_url: RedisUrl, shared_group: Group, options: str) -> None:
    for sentinel in shared_group.sentinels:
        sentinel.send_command("ACL LOG RESET")
        assert sentinel.send_command("ACL SETUSER observer on >secret -@all +sentinel|masters").endswith(b"+OK\r\n")
    observer = "sentinel_username=observer&sentinel_password=secret"
    use_url(shared_group.url(options=options).replace(f"sentinel_password={SENTINEL_QUOTED}", observer))
    assert check().healthy
    assert cache.set("key", "value")
    assert all(sentinel.send_command("ACL LOG").endswith(b"*0\r\n") for sentinel in shared_group.sentinels)


def test_frozen_sentinel_causes_no_failure(use_url: RedisUrl, shared_group: Group) -> None:
    use_url(shared_group.url())
    shared_group.sentinels[0].freeze()
    try:
        assert check().healthy
        assert completes_within(2.0, lambda: cache.set("key", "value"))
        assert cache.get("key") == "value"
    finally:
        shared_group.sentinels[0].thaw()


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_only_new_connections_fail_without_sentinels(use_url: RedisUrl, group: Group, fault: str) -> None:
    use_url(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    for sentinel in group.sentinels:
        getattr(sentinel, fault)()
    assert check().healthy
    assert cache.get("key") == "value"
    drop_readiness_connections()
    cache_pool().disconnect()
    result = check()
    assert result.reason == {"freeze": "timeout", "kill": "connection_refused"}[fault]
    assert result.detail.startswith("No Sentinel responded: ")
    assert all(f"127.0.0.1:{sentinel.port} (" in result.detail for sentinel in group.sentinels)
    assert completes_within(1.0, lambda: cache.get("key")) is None
    for sentinel in group.sentinels:
        sentinel.thaw() if fault == "freeze" else sentinel.start()
    assert succeeds_within(10, lambda: check().healthy)
    assert cache.get("key") == "value"


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_recovers_after_loss_of_primary(use_url: RedisUrl, group: Group, fault: str) -> None:
    use_url(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    assert group.is_settled()
    lost = group.primary
    getattr(lost, fault)()
    reasons = set()

    def recovered() -> bool:
        result = check()
        reasons.add(result.reason)
        return result.healthy

    assert not recovered()
    assert succeeds_within(MAX_FAILOVER, recovered)
    assert f":{lost.port}," not in check().detail
    assert reasons <= {"connection_refused", "connection_lost", "timeout", "not_ready", None}
    # The first call on a connection to a frozen server is a miss after one second.
    assert succeeds_within(5, lambda: cache.get("key") == "value")
    assert cache.set("key", "other")
    if fault == "freeze":
        lost.thaw()  # it acts as a primary until the Sentinels demote it
        for _ in range(20):
            assert check().healthy
            assert cache.get("key") == "other"
            time.sleep(0.05)


def test_follows_planned_failover(use_url: RedisUrl, group: Group) -> None:
    use_url(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    old = group.primary
    new = next(node for node in group.nodes if node is not old)
    assert b"OK" in group.sentinels[0].send_command(f"SENTINEL FAILOVER {SERVICE}")
    assert succeeds_within(MAX_FAILOVER, lambda: f":{new.port}," in check().detail)
    assert cache.set("key", "other")
    assert cache.get("key") == "other"


def test_abandons_demoted_primary_whose_connections_stay_open(use_url: RedisUrl, group: Group) -> None:
    """The old primary rejects writes. In a real failover Sentinel closes its connections if it can reach the server."""
    use_url(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    old = group.primary
    new = next(node for node in group.nodes if node is not old)
    for sentinel in group.sentinels:
        sentinel.send_command(
            f"SENTINEL REMOVE {SERVICE}\r\nSENTINEL MONITOR {SERVICE} 127.0.0.1 {new.port} 2"
            f"\r\nSENTINEL SET {SERVICE} auth-pass {PASSWORD}"
        )
    new.send_command("REPLICAOF NO ONE")
    old.send_command(f"REPLICAOF 127.0.0.1 {new.port}")
    result = check()
    assert result.healthy, result
    assert f":{new.port}," in result.detail
    cache.set("key", "refused")
    assert cache.set("key", "other")
    assert cache.get("key") == "other"
    assert new.send_command("DBSIZE").endswith(b":1\r\n")


def test_failures_leak_no_descriptors(use_url: RedisUrl, shared_group: Group) -> None:
    use_url(shared_group.url().replace(QUOTED, "wrong"))
    process = psutil.Process()
    check()
    drop_readiness_connections()
    before = process.num_fds()
    for _ in range(15):
        assert check().reason == "auth_failed"
    drop_readiness_connections()
    assert process.num_fds() <= before + 2


# The settings


@pytest.mark.parametrize("kind", ["sentinel", "server"])
def test_password_may_contain_a_comma(shared_group: Group, kind: str) -> None:
    url = shared_group.url() if kind == "sentinel" else shared_group.primary.url
    assert "," in QUOTED
    program = (
        "import django; django.setup()\n"
        "from django.core.cache import cache; print(cache.set('comma', 'value'), cache.get('comma'))"
    )
    environment = {**os.environ, "REDIS_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("True value", "")


# redis-py's client


def test_concurrent_discovery_loses_no_sentinel(shared_group: Group) -> None:
    """redis-py fails this test, because it swaps two items of a list that threads share."""
    url = redis_url.parse(shared_group.url())
    unreachable = ("127.0.0.1", 1)
    pool = redis_url.RedisUrl(url.options, (unreachable, *url.sentinels), url.service, url.sentinel_options).pool(
        url.options
    )
    sentinel: Any = pool.sentinel_manager  # type: ignore[attr-defined]
    barrier = threading.Barrier(2)
    original = sentinel.sentinels[1].sentinel_masters

    def synchronized() -> Any:
        masters = original()
        barrier.wait(10)
        return masters

    expected = set(sentinel.sentinels)
    sentinel.sentinels[1].sentinel_masters = synchronized
    threads = [threading.Thread(target=sentinel.discover_master, args=[SERVICE]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sentinel.sentinels) == 4
    assert set(sentinel.sentinels) == expected
    assert sentinel.sentinels[0].sentinel_masters is synchronized
    sentinel.close()


# TLS


@pytest.mark.parametrize(("is_trusted", "expected"), [(True, None), (False, "tls_failure")])
def test_tls(use_url: RedisUrl, tmp_path: Path, is_trusted: bool, expected: str | None) -> None:
    """The wheel's servers have no TLS, so a proxy in front of each terminates it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Group(tmp_path, context=context) as group:
        use_url(group.url(scheme="rediss", options=f"&ssl_ca_certs={tmp_path / 'ca.pem'}"))
        result = check(timeout=5)
        assert result.reason == expected, result
        assert cache.set("key", "value") is (True if expected is None else None)
        if expected is None:
            assert all(group.tls_proxies[server].tls_connections for server in (group.primary, group.sentinels[0]))


def test_tls_fails_on_plain_server(use_url: RedisUrl, shared_group: Group) -> None:
    use_url(shared_group.url(scheme="rediss"))
    assert check(timeout=5).reason in {"timeout", "tls_failure", "connection_lost"}


def test_cache_uses_redis_pys_sentinel_pool(use_url: RedisUrl, shared_group: Group) -> None:
    use_url(shared_group.url())
    assert cache.set("key", "value")
    pool: Any = cache_pool()
    assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
    connection: Any = pool.make_connection()
    assert connection.retry.get_retries() == 0
    assert pool.connection_kwargs["socket_timeout"] == 1
