"""Is Redis (or Valkey) there, does it let us in, and does it take a write?

With Sentinel, each new connection asks the Sentinels for the primary, as the application's do. A demoted primary
refuses the write, and a fresh connection goes to the new one. An open connection that works needs no Sentinel: when all
of them are lost, only a process that has to connect is not ready.
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

_WRONG_MODES = {
    "cluster": "This is a node of a Redis Cluster, which is not supported: use one server or redis+sentinel://",
    "sentinel": "This is a Sentinel, not Redis: use redis+sentinel:// and the name of its service",
}


class Client(Redis):
    where = ""  # empty until the first question
    version: str | None = None


def _connect(seconds: float) -> Client:
    url = redis_url.parse(settings.REDIS_URL)
    pool = url.pool(
        {
            **url.options,
            "socket_timeout": seconds / 2,  # a kept connection that went silent leaves time for a fresh one
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


def _ask(client: Client, seconds: float) -> CheckOutput:
    if not client.where:
        _examine(client)
    # A write is refused by a replica, while loading, without memory and with a full disk; a PING by none of them.
    client.set(f"{settings.SERVICE}:readiness", "", ex=60)
    return CheckOutput(client.where, client.version)


def _examine(client: Client) -> None:
    """Find out, once for each connection, which server this is."""
    try:
        server: Any = client.info("server")
    except ResponseError:  # this user may not ask
        server = {}
    wrong = _WRONG_MODES.get(server.get("server_mode") or server.get("redis_mode"))
    if wrong:
        raise CheckFailed(MISCONFIGURED, wrong)
    client.version = server.get("valkey_version") or server.get("redis_version")
    client.where = where()
    if isinstance(client.connection_pool, SentinelConnectionPool):
        client.where = f"{redis_url.join_host_port(*client.connection_pool.master_address)}, {client.where}"


_kept = PersistentConnection(_connect)


def where() -> str:
    """Returns where the settings say that it is."""
    return redis_url.location(settings.REDIS_URL)


def redis(seconds: float) -> CheckOutput:
    return _kept.ask(_ask, seconds)
