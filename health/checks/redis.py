"""Check that Redis (or Valkey) accepts our credentials and a write.

With Sentinel, each new connection queries the Sentinels for the primary. A demoted primary refuses the write, and the
retry connects to the new one. If all Sentinels are down, only processes that have to reconnect become unready.
"""

from typing import Any

from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from core.clients import redis_url
from health.check_runner import CheckOutput
from health.checks.failure_reasons import MISCONFIGURED, CheckFailed
from health.checks.persistent_connection import PersistentConnection

_UNSUPPORTED_MODES = {
    "cluster": "Redis Cluster is not supported. Use a single server or redis+sentinel://",
    "sentinel": "The server is a Sentinel, not Redis. Use redis+sentinel:// and the name of its service",
}


class Client(Redis):
    endpoint = ""  # empty until the first query
    version: str | None = None


def _connect(seconds: float) -> Client:
    url = redis_url.parse(settings.REDIS_URL)
    pool = url.pool(
        {
            **url.options,
            "socket_timeout": seconds / 2,  # the other half is for reconnecting
            "socket_connect_timeout": seconds / 2,
            "retry": Retry(NoBackoff(), 0),
            "client_name": f"{settings.SERVICE}-readiness",
        }
    )
    try:
        client = Client(connection_pool=pool, single_connection_client=True)
    finally:
        if isinstance(pool, SentinelConnectionPool):
            pool.sentinel_manager.close()
    client.auto_close_connection_pool = True
    return client


def _query(client: Client, seconds: float) -> CheckOutput:
    if not client.endpoint:
        _identify_server(client)
    # A server that is a replica, loading, out of memory or out of disk refuses a write, but not a PING.
    client.set(f"{settings.SERVICE}:readiness", "", ex=60)
    return CheckOutput(client.endpoint, client.version)


def _identify_server(client: Client) -> None:
    """Store the endpoint and version. Raise CheckFailed in an unsupported mode."""
    try:
        server: Any = client.info("server")
    except ResponseError:  # the user lacks the permission for INFO
        server = {}
    unsupported = _UNSUPPORTED_MODES.get(server.get("server_mode") or server.get("redis_mode"))
    if unsupported:
        raise CheckFailed(MISCONFIGURED, unsupported)
    client.version = server.get("valkey_version") or server.get("redis_version")
    client.endpoint = redis_endpoint()
    if isinstance(client.connection_pool, SentinelConnectionPool):
        client.endpoint = f"{redis_url.join_host_port(*client.connection_pool.master_address)}, {client.endpoint}"


_connection = PersistentConnection(_connect)


def redis_endpoint() -> str:
    """Return the configured endpoint, without credentials."""
    return redis_url.location(settings.REDIS_URL)


def redis(seconds: float) -> CheckOutput:
    return _connection.run(_query, seconds)
