"""Check that Redis (or Valkey) executes every command that the application uses, with the application's permissions.

With Sentinel, each new connection queries the Sentinels for the primary. A demoted primary refuses the write, and the
retry connects to the new one. If all Sentinels are down, only processes that have to reconnect become unready.
"""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.conf import settings
from django.core.cache import caches
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from core.clients import certificates, redis_url, transport
from health.check_runner import CheckOutput
from health.checks.failure_reasons import BAD_RESPONSE, MISCONFIGURED, TLS_FAILURE, CheckFailed
from health.checks.persistent_connection import PersistentConnection
from health.checks.read_limit import ReadLimit

_CLUSTER_ERRORS = (MovedError, AskError, TryAgainError, ClusterDownError, ClusterCrossSlotError)
_CLUSTER = "Redis Cluster is not supported. Use a single server or redis+sentinel://"
_NO_HELLO = "Remove protocol=3 from REDIS_URL"
_NO_CACHE = "If the server is a Sentinel, use redis+sentinel:// and the name of its service"


class Client(Redis):
    limit: ReadLimit
    endpoint: str  # these two are parsed once, because that takes a sixth of the time of a check
    transport: str
    version: str | None = None  # "" if the server does not report it
    certificate_expires_at: float | None = None

    def close(self) -> None:
        super().close()
        if isinstance(self.connection_pool, SentinelConnectionPool):
            self.connection_pool.sentinel_manager.close()


def connect(seconds: float) -> Client:
    url = redis_url.parse(settings.REDIS_URL)
    _load_tls_files(url.options)
    limit = ReadLimit()

    def limit_reads(connection: Any) -> None:
        # Private: `_sock`. redis-py calls this function after it has connected, but has no hook for the socket.
        # It connects to the Sentinels first, so the last certificate is the server's.
        client.certificate_expires_at = certificates.of_socket(connection._sock)
        connection._sock = limit.wrap(connection._sock)
        connection.on_connect_check_health(check_health=False)

    pool = url.pool(
        {
            **url.options,
            "socket_timeout": seconds / 2,  # the other half is for reconnecting
            "socket_connect_timeout": seconds / 2,
            "retry": Retry(NoBackoff(), 0),
            "redis_connect_func": limit_reads,
        }
    )
    client = Client(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.limit = limit
    client.endpoint, client.transport = redis_endpoint(), transport.redis(settings.REDIS_URL)
    return client


def _load_tls_files(options: dict[str, Any]) -> None:
    """Raise CheckFailed if a file in the URL cannot be loaded, because redis-py's error does not name it."""
    files = {name: options[name] for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile") if options.get(name)}
    if not files:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "ssl_ca_certs" in files:
            context.load_verify_locations(files["ssl_ca_certs"])
        if "ssl_certfile" in files:
            # Without a password, OpenSSL would request one at the terminal.
            context.load_cert_chain(files["ssl_certfile"], files.get("ssl_keyfile"), options.get("ssl_password") or "")
    except OSError as error:
        listed = ", ".join(f"{name}={path}" for name, path in files.items())
        raise CheckFailed(TLS_FAILURE, f"A TLS file of REDIS_URL cannot be loaded ({listed}): {error}") from error


@contextmanager
def querying(client: Client, seconds: float) -> Iterator[None]:
    """Limit the time of the block and what it may read, and raise CheckFailed if the server is of another kind."""
    client.limit.start(seconds)
    try:
        yield
    except MasterDownError:
        raise  # a replica, although redis-py derives it from ClusterDownError
    except _CLUSTER_ERRORS as error:
        raise CheckFailed(MISCONFIGURED, _CLUSTER) from error
    except (RedisError, OSError, CheckFailed):
        raise
    except Exception as error:  # redis-py could not parse a response
        raise CheckFailed(BAD_RESPONSE, "not a response of Redis") from error


def _query(client: Client, seconds: float) -> CheckOutput:
    with querying(client, seconds):
        _use(client)
        if client.version is None:
            client.version = _query_version(client)
    return CheckOutput(
        _endpoint(client),
        client.version or None,
        client.transport,
        certificate_expires_at=client.certificate_expires_at,
    )


@cache
def cache_keys() -> list[str]:
    """Return keys of the application, one in each quarter of the hash slots.

    A node of a Redis Cluster that does not have all slots refuses one of them. One that has all of them works, and so
    does a proxy that routes each command.
    """
    return [caches["default"].make_key(f"readiness-{number}") for number in range(4)]


def _use(client: Client) -> None:
    """Send the commands of the cache in one round trip. A replica or a full server refuses SET, but not PING."""
    keys = cache_keys()
    pipeline = client.pipeline(transaction=False)
    pipeline.set(keys[0], "", ex=60)
    pipeline.get(keys[0])
    for key in keys:
        pipeline.exists(key)
    pipeline.delete(keys[0])
    try:
        stored, *_, deleted = pipeline.execute()
    except ResponseError as error:
        if not re.search("(unknown|unsupported) command", str(error), re.IGNORECASE):
            raise
        advice = _NO_HELLO if "HELLO" in str(error) else _NO_CACHE
        raise CheckFailed(MISCONFIGURED, f"{error}. {advice}") from error
    if stored is not True or not isinstance(deleted, int):
        raise CheckFailed(BAD_RESPONSE, "not a response of Redis")


def _query_version(client: Client) -> str:
    """Return the server's version, or "" if the user lacks the permission or a proxy does not forward INFO."""
    try:
        server = client.info("server")
    except (ResponseError, ConnectionError):  # some proxies close the connection; the next check opens a new one
        return ""
    return str(server.get("valkey_version") or server.get("redis_version") or "")


_connection = PersistentConnection(connect)


def redis_endpoint() -> str:
    """Return the configured endpoint, without credentials."""
    return redis_url.location(settings.REDIS_URL)


def _endpoint(client: Client) -> str:
    """Return the endpoint with the current primary, if it is known."""
    pool = client.connection_pool
    address = pool.master_address if isinstance(pool, SentinelConnectionPool) else None
    return f"{redis_url.join_host_port(*address)}, {client.endpoint}" if address else client.endpoint


def redis(seconds: float) -> CheckOutput:
    return _connection.run(_query, seconds)
