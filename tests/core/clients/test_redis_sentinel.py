"""A real group of Redis servers under Sentinel fails over: readiness, the cache and web sessions follow."""

import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import trustme
from django.conf import settings as project
from django.core.cache import cache as django_cache
from pytest_django import Settings

from core.clients import redis_url
from core.clients.redis import ConnectionFactory
from health import readiness
from health.check_runner import Result, Runner
from health.checks import checks
from tests.support.plugin import drop_readiness_connections
from tests.support.sentinel import PASSWORD, QUOTED, SENTINEL_PASSWORD, SENTINEL_QUOTED, SERVICE, Group, within
from tests.support.voiceassist_server import ROOT

TIMEOUT = 1.0
NOISE = 2.0  # seconds that a busy machine may add
FAILS_OVER = 20.0  # seconds; Sentinels whose votes were split try again after twice their failover-timeout

pytestmark = pytest.mark.timeout(180)
Use = Callable[[str], None]
cache: Any = django_cache  # django-redis' methods return more than Django's promise


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """For tests that leave it as they found it."""
    with Group(tmp_path_factory.mktemp("standing")) as group:
        yield group


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    with Group(tmp_path) as group:
        yield group


@pytest.fixture
def use(settings: Settings) -> Iterator[Use]:
    """Points readiness and the cache at a URL, as the environment would."""

    def point(url: str) -> None:
        changed: Any = deepcopy(project.CACHES)
        changed["default"]["LOCATION"] = [url]
        settings.CACHES = changed
        settings.REDIS_URL = url
        drop_readiness_connections()

    yield point
    drop_readiness_connections()
    ConnectionFactory._pools.clear()


def check(timeout: float = TIMEOUT) -> Result:
    began = time.monotonic()
    runner = Runner(checks(["redis"]), timeout=timeout, max_age=0, explain=readiness.explain)
    result = runner.report().results[0]
    assert time.monotonic() - began < timeout + NOISE
    assert not any(secret in result.detail for secret in (PASSWORD, QUOTED, SENTINEL_PASSWORD, SENTINEL_QUOTED))
    return result


def stays_quick(action: Callable[[], Any], seconds: float) -> Any:
    began = time.monotonic()
    value = action()
    assert time.monotonic() - began < seconds + NOISE
    return value


def pool_of_the_cache() -> Any:
    return cache.client.get_client().connection_pool


# Readiness


def test_the_answer_names_the_host_and_the_service(use: Use, standing: Group) -> None:
    use(standing.url())
    result = check()
    assert result.healthy, result
    assert result.detail.startswith(f"127.0.0.1:{standing.primary.port}, primary of {SERVICE}, Sentinels 127.0.0.1:")
    assert result.version


def test_what_can_be_wrong(use: Use, standing: Group) -> None:
    good = standing.url()
    first = f"127.0.0.1:{standing.sentinels[0].port}"
    others = good.partition("@")[2].partition("/")[0]
    for url, expected in [
        (good.replace(QUOTED, "wrong"), "auth_failed"),
        (good.replace(SENTINEL_QUOTED, "wrong"), "auth_failed"),
        (good.partition("?")[0], "auth_failed"),
        (good.replace(SERVICE, SERVICE.lower()), "misconfigured"),
        (good.replace("/0?", "/99?"), "misconfigured"),
        (good.replace(others, "127.0.0.1:1,127.0.0.1:2"), "connection_refused"),
        (good.replace(others, "no-such-host.invalid"), "dns_failure"),
        (good.replace(others, f"no-such-host.invalid,127.0.0.1:1,{first}"), None),
        (good.replace(others, f"127.0.0.1:{standing.primary.port}"), "auth_failed"),  # Redis has another password
        (f"redis://:{SENTINEL_QUOTED}@{first}/0", "misconfigured"),
    ]:
        use(url)
        result = check(timeout=5)
        assert result.reason == expected, (url, result)


def test_a_frozen_sentinel_holds_nothing_up(use: Use, standing: Group) -> None:
    use(standing.url())
    standing.sentinels[0].freeze()
    try:
        assert check().healthy
        assert stays_quick(lambda: cache.set("key", "value"), 2.0)
        assert cache.get("key") == "value"
    finally:
        standing.sentinels[0].thaw()


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_without_sentinels_only_new_connections_fail(use: Use, group: Group, fault: str) -> None:
    use(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    for sentinel in group.sentinels:
        getattr(sentinel, fault)()
    assert check().healthy
    assert cache.get("key") == "value"
    drop_readiness_connections()
    pool_of_the_cache().disconnect()
    result = check()
    assert result.reason == {"freeze": "timeout", "kill": "connection_refused"}[fault]
    assert result.detail.startswith("No Sentinel answers: ")
    assert all(f"127.0.0.1:{sentinel.port} (" in result.detail for sentinel in group.sentinels)
    assert stays_quick(lambda: cache.get("key"), 1.0) is None
    for sentinel in group.sentinels:
        sentinel.thaw() if fault == "freeze" else sentinel.start()
    assert within(10, lambda: check().healthy)
    assert cache.get("key") == "value"


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_the_primary_is_lost(use: Use, group: Group, fault: str) -> None:
    use(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    assert group.settled()
    lost = group.primary
    getattr(lost, fault)()
    reasons = set()

    def recovered() -> bool:
        result = check()
        reasons.add(result.reason)
        return result.healthy

    assert not recovered()
    assert within(FAILS_OVER, recovered)
    assert f":{lost.port}," not in check().detail
    assert reasons <= {"connection_refused", "connection_lost", "timeout", "not_ready", None}
    # The first call on a connection to a frozen server is a miss, after a second.
    assert within(5, lambda: cache.get("key") == "value")
    assert cache.set("key", "other")
    if fault == "freeze":
        lost.thaw()  # it takes itself for the primary until the Sentinels say otherwise
        for _ in range(20):
            assert check().healthy
            assert cache.get("key") == "other"
            time.sleep(0.05)


def test_a_planned_failover_is_followed(use: Use, group: Group) -> None:
    use(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    before = group.primary
    after = next(node for node in group.nodes if node is not before)
    assert b"OK" in group.sentinels[0].ask(f"SENTINEL FAILOVER {SERVICE}")
    assert within(FAILS_OVER, lambda: f":{after.port}," in check().detail)
    assert cache.set("key", "other")
    assert cache.get("key") == "other"


def test_a_demoted_primary_that_keeps_its_connections_is_left(use: Use, group: Group) -> None:
    """It refuses to write on them. In a failover Sentinel closes them, if it can reach that server."""
    use(group.url())
    assert check().healthy
    assert cache.set("key", "value")
    before = group.primary
    after = next(node for node in group.nodes if node is not before)
    for sentinel in group.sentinels:
        sentinel.ask(
            f"SENTINEL REMOVE {SERVICE}\r\nSENTINEL MONITOR {SERVICE} 127.0.0.1 {after.port} 2"
            f"\r\nSENTINEL SET {SERVICE} auth-pass {PASSWORD}"
        )
    after.ask("REPLICAOF NO ONE")
    before.ask(f"REPLICAOF 127.0.0.1 {after.port}")
    result = check()
    assert result.healthy, result
    assert f":{after.port}," in result.detail
    cache.set("key", "refused")
    assert cache.set("key", "other")
    assert cache.get("key") == "other"
    assert after.ask("DBSIZE").endswith(b":2\r\n")


def test_nothing_is_leaked_by_failing(use: Use, standing: Group) -> None:
    use(standing.url().replace(QUOTED, "wrong"))
    process = psutil.Process()
    check()
    drop_readiness_connections()
    before = process.num_fds()
    for _ in range(15):
        assert check().reason == "auth_failed"
    drop_readiness_connections()
    assert process.num_fds() <= before + 2


# The settings


@pytest.mark.parametrize("by", ["sentinel", "server"])
def test_a_comma_in_a_password_is_a_comma(standing: Group, by: str) -> None:
    url = standing.url() if by == "sentinel" else standing.primary.url
    assert "," in QUOTED
    program = (
        "import django; django.setup()\n"
        "from django.core.cache import cache; print(cache.set('comma', 'value'), cache.get('comma'))"
    )
    environment = {**os.environ, "REDIS_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("True value", "")


# redis-py's client


def test_threads_that_find_the_same_sentinel_lose_no_other(standing: Group) -> None:
    """redis-py swaps two items of a list that its threads share: it fails this test."""
    url = redis_url.parse(standing.url())
    dead = ("127.0.0.1", 1)
    pool = redis_url.RedisUrl(url.options, (dead, *url.sentinels), url.service, url.sentinel_options).pool(url.options)
    sentinel: Any = pool.sentinel_manager  # type: ignore[attr-defined]
    together = threading.Barrier(2)
    ask = sentinel.sentinels[1].sentinel_masters

    def both_at_once() -> Any:
        answer = ask()
        together.wait(10)
        return answer

    all_of_them = set(sentinel.sentinels)
    sentinel.sentinels[1].sentinel_masters = both_at_once
    threads = [threading.Thread(target=sentinel.discover_master, args=[SERVICE]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sentinel.sentinels) == 4
    assert set(sentinel.sentinels) == all_of_them
    assert sentinel.sentinels[0].sentinel_masters is both_at_once
    sentinel.close()


# TLS


@pytest.mark.parametrize(("trusted", "expected"), [("right", None), ("wrong", "tls_failure")])
def test_over_tls(use: Use, tmp_path: Path, trusted: str, expected: str | None) -> None:
    """The wheel's servers speak no TLS, so that stands in front of each of them."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (authority if trusted == "right" else trustme.CA()).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Group(tmp_path, context=context) as group:
        use(group.url(scheme="rediss", options=f"&ssl_ca_certs={tmp_path / 'ca.pem'}"))
        result = check(timeout=5)
        assert result.reason == expected, result
        assert cache.set("key", "value") is (True if expected is None else None)
        if expected is None:
            assert all(group.fronts[server].secured for server in (group.primary, group.sentinels[0]))


def test_plain_is_not_taken_for_tls(use: Use, standing: Group) -> None:
    use(standing.url(scheme="rediss"))
    assert check(timeout=5).reason in {"timeout", "tls_failure", "connection_lost"}


def test_pool_of_the_cache_is_redis_pys_own(use: Use, standing: Group) -> None:
    use(standing.url())
    assert cache.set("key", "value")
    pool: Any = pool_of_the_cache()
    assert type(pool) is redis.sentinel.SentinelConnectionPool
    connection: Any = pool.make_connection()
    assert connection.retry.get_retries() == 0
    assert pool.connection_kwargs["socket_timeout"] == 1
