"""Each fault of each dependency is reported with its reason in time, and recovery is detected. Connections are real."""

import functools
import ssl
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
import trustme
from django.conf import settings
from django.db import connections

from core.clients.postgresql.servers import preference
from health import readiness
from health.check_runner import Result, Runner
from health.checks import checks
from tests.support.dependency_servers import PASSWORD, QUOTED, Postgres, Valkey, free_port
from tests.support.forks import exit_code_in_fork
from tests.support.plugin import API_KEY, drop_readiness_connections
from tests.support.polling import NOISE, SLOWNESS, ends_within, succeeds_within
from tests.support.proxy import Proxy, TlsProxy
from tests.support.qdrant_server import QdrantServer
from voiceassist.environment import Environment

TIMEOUT = 1.0  # seconds, times SLOWNESS, as are all timeouts of this file

PointAt = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "postgres")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def cache(folder: Path) -> Iterator[Valkey]:
    server = Valkey(folder / "valkey")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def vectors() -> Iterator[QdrantServer]:
    with QdrantServer(api_key=API_KEY) as server:
        yield server


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[PointAt]:
    """Return a function that points the application at other servers, as the environment does."""

    def point(*, database: str | None = None, cache: str | None = None, vectors: str | None = None) -> None:
        if database:
            monkeypatch.setenv("DATABASE_URL", database)
            parsed = Environment().database("DATABASE_URL", password="DATABASE_PASSWORD", default=None, required=True)
            for key, value in parsed.items():
                monkeypatch.setitem(connections.settings["default"], key, value)
        if cache:
            monkeypatch.setattr(settings, "REDIS_URL", cache)
        if vectors:
            monkeypatch.setattr(settings, "QDRANT_URL", vectors)
        drop_readiness_connections()

    yield point
    drop_readiness_connections()


@functools.cache
def runner(name: str, timeout: float = TIMEOUT) -> Runner:
    """Return the shared runner of this name and timeout. As in a server, one check runs at a time."""
    return Runner(checks([name]), timeout=timeout * SLOWNESS, max_age=0, explain=readiness.explain)


def check(name: str, timeout: float = TIMEOUT) -> Result:
    with ends_within(timeout * SLOWNESS, noise=NOISE / 2):
        return runner(name, timeout).report().results[0]


def reason(name: str) -> str | None:
    return check(name).reason


def wait_for_reason(name: str, expected: str | None, timeout: float = 10) -> bool:
    return succeeds_within(timeout, lambda: reason(name) == expected)


# Faults that a proxy injects


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, point_at: PointAt, database: Postgres, cache: Valkey, vectors: QdrantServer
) -> Iterator[tuple[str, Proxy]]:
    name: str = request.param
    targets: dict[str, Postgres | Valkey | QdrantServer] = {"postgres": database, "redis": cache, "qdrant": vectors}
    target = targets[name]
    with Proxy(target.port) as proxy:
        url = target.url.replace(f":{target.port}", f":{proxy.port}")
        point_at(**{{"postgres": "database", "redis": "cache", "qdrant": "vectors"}[name]: url})
        yield name, proxy


FAULTS = {
    "refuse": {"connection_refused"},
    "silent": {"timeout"},
    "reset": {"connection_lost"},
    "close": {"connection_lost"},
    "garbage": {"bad_response"},
    "html": {"bad_response"},
    "truncate": {"connection_lost", "bad_response"},
}


@pytest.mark.parametrize("is_connected", [False, True], ids=["new connection", "open connection"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("proxied", ["postgres", "redis", "qdrant"], indirect=True)
def test_network_fault(proxied: tuple[str, Proxy], fault: str, is_connected: bool) -> None:
    name, proxy = proxied
    if is_connected:
        assert reason(name) is None
    proxy.mode = fault
    assert reason(name) in FAULTS[fault]
    assert reason(name) in FAULTS[fault]
    proxy.mode = "pass"
    assert reason(name) is None


@pytest.mark.parametrize("proxied", ["postgres", "redis", "qdrant"], indirect=True)
def test_slow_response_within_timeout_is_healthy(proxied: tuple[str, Proxy]) -> None:
    name, proxy = proxied
    assert reason(name) is None
    proxy.mode, proxy.delay = "delay", 0.05
    result = check(name, timeout=5)
    assert result.healthy
    assert result.latency_ms >= 50


@pytest.mark.parametrize("proxied", ["postgres", "redis", "qdrant"], indirect=True)
def test_reconnects_if_connection_is_stale(proxied: tuple[str, Proxy]) -> None:
    name, proxy = proxied
    assert reason(name) is None
    proxy.mode = "close"
    proxy.mode = "pass"
    assert reason(name) is None


@pytest.mark.parametrize("proxied", ["postgres", "redis", "qdrant"], indirect=True)
def test_reuses_connection_while_healthy(proxied: tuple[str, Proxy]) -> None:
    name, proxy = proxied
    for _ in range(20):
        assert reason(name) is None
    assert proxy.accepted == 1


@pytest.mark.parametrize("fault", ["refuse", "silent", "reset", "close", "garbage"])
@pytest.mark.parametrize("proxied", ["postgres", "redis", "qdrant"], indirect=True)
def test_failing_checks_leak_nothing(proxied: tuple[str, Proxy], fault: str) -> None:
    name, proxy = proxied
    proxy.mode = fault
    shared = runner(name, 0.1)
    process = psutil.Process()

    def count_resources() -> tuple[int, int]:
        check_threads = [thread for thread in threading.enumerate() if thread.name.startswith("check-")]
        return len(check_threads), process.num_fds()

    shared.report()
    drop_readiness_connections()
    threads_before, descriptors_before = count_resources()
    for _ in range(15):
        shared.report()

    def leaks_nothing() -> bool:
        threads, descriptors = count_resources()
        # a connection to the proxy and one from it, two descriptors each
        return threads <= max(1, threads_before) and descriptors <= descriptors_before + 4

    assert succeeds_within(10, leaks_nothing), (threads_before, descriptors_before, count_resources())


# Servers that are killed, frozen and restarted


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_recovers_after_server_is_killed(name: str, point_at: PointAt, database: Postgres, cache: Valkey) -> None:
    point_at(database=database.url, cache=cache.url)
    server = {"postgres": database, "redis": cache}[name]
    assert reason(name) is None
    server.kill()
    assert reason(name) == "connection_refused"
    server.start()
    assert reason(name) is None


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_recovers_after_server_is_frozen(name: str, point_at: PointAt, database: Postgres, cache: Valkey) -> None:
    point_at(database=database.url, cache=cache.url)
    server = {"postgres": database, "redis": cache}[name]
    assert reason(name) is None
    server.freeze()
    try:
        assert reason(name) == "timeout"
        assert reason(name) == "timeout"
    finally:
        server.thaw()
    assert wait_for_reason(name, None)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_restart_between_two_checks_is_not_an_outage(
    name: str, point_at: PointAt, database: Postgres, cache: Valkey
) -> None:
    point_at(database=database.url, cache=cache.url)
    server = {"postgres": database, "redis": cache}[name]
    assert reason(name) is None
    server.stop()
    server.start()
    assert reason(name) is None


# Faults of each server


def test_postgres_connection_errors(point_at: PointAt, database: Postgres) -> None:
    address = f"127.0.0.1:{database.port}"
    user = database.url.split("@")[0].removeprefix("postgres://")
    for url, expected in [
        (f"postgres://tester:wrong@{address}/tests", "auth_failed"),
        (f"postgres://unknown:wrong@{address}/tests", "auth_failed"),
        (f"postgres://tester@{address}/tests", "auth_failed"),
        (f"postgres://{user}@{address}/missing", "misconfigured"),
        (f"postgres://{user}@no-such-host.invalid:{database.port}/tests", "dns_failure"),
        (f"postgres://{user}@{address}/tests?sslmode=require", "tls_failure"),
        (f"postgres://{user}@/tests?host={quote('/no/such/folder')}", "connection_refused"),
    ]:
        point_at(database=url)
        result = check("postgres", timeout=5)
        assert result.reason == expected, (url, result)


def test_read_only_postgres_is_not_ready(point_at: PointAt, database: Postgres) -> None:
    point_at(database=database.url)
    database.execute("ALTER DATABASE tests SET default_transaction_read_only = on")
    try:
        drop_readiness_connections()
        assert reason("postgres") == "not_ready"
    finally:
        with psycopg.connect(database.url, autocommit=True, options="-c default_transaction_read_only=off") as c:
            c.execute("ALTER DATABASE tests RESET default_transaction_read_only")
    drop_readiness_connections()
    assert reason("postgres") is None


def test_postgres_with_silent_first_host_is_healthy(
    point_at: PointAt, database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readiness tries the second host as the ORM does, and connects to it first from then on."""
    monkeypatch.setattr(preference, "last_success", None)
    with Proxy(database.port) as proxy:
        proxy.mode = "silent"
        user = database.url.split("@")[0]
        point_at(database=f"{user}@127.0.0.1:{proxy.port},127.0.0.1:{database.port}/tests")
        for _ in range(3):
            assert reason("postgres") is None
        assert proxy.accepted == 1


def test_postgres_without_its_synchronous_standby_is_not_ready(point_at: PointAt, database: Postgres) -> None:
    """The server executes reads and writes, but commits hang."""
    point_at(database=database.url)
    assert reason("postgres") is None
    local = "-c synchronous_commit=local"
    with psycopg.connect(database.url, autocommit=True, options=local) as operator:
        operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        operator.execute("SELECT pg_reload_conf()")
        try:
            assert wait_for_reason("postgres", "not_ready")
            for _ in range(3):
                # A longer timeout, because a fraction of it has to be enough for cancelling the commit.
                assert check("postgres", timeout=4).reason == "not_ready"
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            assert operator.execute(waiting).fetchone() == (0,)
        finally:
            operator.execute("ALTER SYSTEM RESET synchronous_standby_names")
            operator.execute("SELECT pg_reload_conf()")
    assert wait_for_reason("postgres", None)


def test_reconnects_if_postgres_became_a_standby(point_at: PointAt, database: Postgres) -> None:
    """The open connection leads to the demoted server, a new one to the primary, because the address was moved."""
    point_at(database=database.url)
    assert reason("postgres") is None
    persistent = import_module("health.checks.postgres")._connection
    client = persistent._connection
    assert client is not None
    client.connection.execute("SET default_transaction_read_only = on")
    assert reason("postgres") is None
    assert persistent._connection is not client


def test_postgres_with_too_many_connections_is_not_ready(point_at: PointAt, database: Postgres) -> None:
    point_at(database=database.url)
    database.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 0")
    point_at(database=f"postgres://few:few@127.0.0.1:{database.port}/tests")
    assert reason("postgres") == "not_ready"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authorities(authority: trustme.CA, folder: Path) -> dict[str, Path]:
    """Return files with the certificate of the authority that issued the servers' certificates, and of another one."""
    files = {"issuer": folder / "issuer.crt", "other": folder / "other.crt"}
    authority.cert_pem.write_to_path(str(files["issuer"]))
    trustme.CA().cert_pem.write_to_path(str(files["other"]))
    return files


@pytest.mark.parametrize(("trusted", "expected"), [("issuer", None), ("other", "tls_failure")])
def test_verifies_tls_certificates(
    point_at: PointAt,
    database: Postgres,
    cache: Valkey,
    context: ssl.SSLContext,
    authorities: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    trusted: str,
    expected: str | None,
) -> None:
    file = authorities[trusted]
    with TlsProxy(database.port, context, postgres=True) as front:
        url = database.url.replace(f":{database.port}", f":{front.port}")
        point_at(database=f"{url}?sslmode=verify-full&sslrootcert={file}")
        assert reason("postgres") == expected
        drop_readiness_connections()
    with TlsProxy(cache.port, context) as front:
        url = cache.url.replace(f":{cache.port}", f":{front.port}").replace("redis:", "rediss:")
        point_at(cache=f"{url}?ssl_ca_certs={file}")
        assert reason("redis") == expected
        drop_readiness_connections()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with QdrantServer(api_key=API_KEY, tls=context) as server:
        point_at(vectors=server.url)
        assert reason("qdrant") == expected
        drop_readiness_connections()


def test_redis_connection_errors(point_at: PointAt, cache: Valkey) -> None:
    address = f"127.0.0.1:{cache.port}"
    password = cache.url.split("@")[0].removeprefix("redis://:")
    for url, expected in [
        (f"redis://:wrong@{address}/0", "auth_failed"),
        (f"redis://unknown:wrong@{address}/0", "auth_failed"),
        (f"redis://{address}/0", "auth_failed"),
        (f"redis://:{password}@{address}/99", "misconfigured"),
        (f"redis://:{password}@no-such-host.invalid:{cache.port}/0", "dns_failure"),
        # A server without TLS reads the handshake as an unfinished command.
        (f"rediss://:{password}@{address}/0", "timeout"),
        ("unix:///no/such/socket", "connection_refused"),
    ]:
        point_at(cache=url)
        result = check("redis", timeout=5)
        assert result.reason == expected, (url, result)


def test_redis_that_rejects_writes_is_not_ready(point_at: PointAt, cache: Valkey, folder: Path) -> None:
    replica = Valkey(folder / "replica", replica_of=cache)
    full = Valkey(folder / "full", options=("--maxmemory", "1", "--maxmemory-policy", "noeviction"))
    without_replica = Valkey(folder / "without-replica", options=("--min-replicas-to-write", "1"))
    for server in (replica, full, without_replica):
        server.start()
        try:
            point_at(cache=server.url)
            assert reason("redis") == "not_ready", server.options
        finally:
            server.kill()


def test_redis_cluster_is_misconfigured(point_at: PointAt, folder: Path) -> None:
    server = Valkey(folder / "cluster", options=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    server.start()
    try:
        point_at(cache=server.url)
        result = check("redis")
        assert result.reason == "misconfigured"
        assert "Redis Cluster" in result.detail
    finally:
        server.kill()


def test_redis_that_is_loading_is_not_ready(point_at: PointAt, folder: Path) -> None:
    server = Valkey(folder / "loading", options=("--key-load-delay", "20"))  # microseconds
    server.start()
    server.send_command("\r\n".join(f"SET key{number} value" for number in range(60000)))
    server.stop()
    point_at(cache=server.url)
    server.launch()
    try:
        assert wait_for_reason("redis", "not_ready")
        assert wait_for_reason("redis", None)
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("403", "auth_failed"),
        ("500", "bad_response"),
        ("503", "not_ready"),
        ("502 html", "bad_response"),
        ("html", "bad_response"),
        ("text", "bad_response"),
        ("wrong shape", "bad_response"),
        ("list", "bad_response"),
        ("not utf-8", "bad_response"),
        ("redirect", "bad_response"),
        ("garbage", "bad_response"),
        ("truncated", "connection_lost"),
        ("reset", "connection_lost"),
        ("closed", "connection_lost"),
        ("silence", "timeout"),
        ("endless", "bad_response"),
        ("trickle", "timeout"),
    ],
)
def test_qdrant_faults(point_at: PointAt, vectors: QdrantServer, fault: str, expected: str) -> None:
    point_at(vectors=vectors.url)
    assert reason("qdrant") is None
    vectors.fault = fault
    result = check("qdrant")
    assert result.reason == expected, result
    vectors.fault = None
    assert wait_for_reason("qdrant", None)


def test_qdrant_with_unready_shards_is_not_ready(point_at: PointAt, vectors: QdrantServer) -> None:
    point_at(vectors=vectors.url)
    vectors.shards_ready = False
    assert reason("qdrant") == "not_ready"
    vectors.shards_ready = True
    assert reason("qdrant") is None


def test_qdrant_connection_errors(point_at: PointAt, vectors: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, expected in [
        (f"http://no-such-host.invalid:{vectors.port}", "dns_failure"),
        (f"https://127.0.0.1:{vectors.port}", "tls_failure"),
        ("http://127.0.0.1:1", "connection_refused"),
    ]:
        point_at(vectors=url)
        result = check("qdrant", timeout=5)
        assert result.reason == expected, (url, result)
    for key in ("wrong", None):
        monkeypatch.setattr(settings, "QDRANT_API_KEY", key)
        point_at(vectors=vectors.url)
        assert reason("qdrant") == "auth_failed"


# Migrations


def test_pending_migrations_are_detected(point_at: PointAt, database: Postgres) -> None:
    point_at(database=database.url)
    shared = runner("migrations", 5)
    assert shared.report().results[0].reason == "migrations_pending"
    known = import_module("health.checks.migrations").migrations_on_disk()
    database.execute("CREATE TABLE django_migrations (app text, name text)")
    try:
        assert shared.report().results[0].reason == "migrations_pending"
        rows = ", ".join(f"('{app}', '{name}')" for app, name in known)
        database.execute(f"INSERT INTO django_migrations VALUES {rows}")
        assert shared.report().results[0].reason is None
        database.execute("INSERT INTO django_migrations VALUES ('core', '9999_newer_code')")
        assert shared.report().results[0].reason is None
        database.execute("DELETE FROM django_migrations WHERE app = 'core'")
        result = shared.report().results[0]
        assert result.reason == "migrations_pending"
        assert "core.0001_initial" in result.detail
    finally:
        database.execute("DROP TABLE django_migrations")


def test_migrations_while_database_is_down(point_at: PointAt) -> None:
    point_at(database="postgres://a:b@127.0.0.1:1/c")
    assert reason("migrations") == "connection_refused"


# Credentials


def test_details_contain_no_credentials(point_at: PointAt, database: Postgres, cache: Valkey) -> None:
    point_at(database=f"postgres://tester:{QUOTED}@127.0.0.1:{database.port}/missing", cache=f"{cache.url}99")
    for name in ("postgres", "redis", "migrations"):
        result = check(name, timeout=5)
        assert not result.healthy
        assert PASSWORD not in result.detail
        assert QUOTED not in result.detail


@pytest.mark.django_db
def test_forked_process_gets_a_new_runner() -> None:
    parent = readiness.runner()
    assert parent.report().status == "ready"

    def assert_runner_is_new() -> None:
        own = readiness.runner()
        assert own is not parent
        assert own.latest is None

    assert exit_code_in_fork(assert_runner_is_new) == 0
