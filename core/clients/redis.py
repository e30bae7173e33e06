"""redis-py's client with metrics. Django's cache uses it, and through the cache web sessions do."""

import time
from collections.abc import Callable
from typing import Any

import redis
from django_redis import pool
from redis.client import Pipeline
from redis.connection import ConnectionPool

from core.clients import redis_url
from core.metrics import REDIS_CALLS

# The commands that Django's cache sends. Others share one label, so that the number of series is bounded.
_COMMANDS = {"GET", "SET", "MGET", "DEL", "EXISTS", "INCRBY", "PEXPIRE", "PERSIST", "PTTL", "EVALSHA", "pipeline"}


def _measured(command: str, call: Callable[[], Any]) -> Any:
    outcome = "error"
    started_at = time.perf_counter()
    try:
        result = call()
        outcome = "ok"
        return result
    finally:
        REDIS_CALLS.labels(command if command in _COMMANDS else "other", outcome).observe(
            time.perf_counter() - started_at
        )


class _Pipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        results: list[Any] = _measured("pipeline", lambda: super(_Pipeline, self).execute(raise_on_error))
        return results


class Client(redis.Redis):
    # Private: the signatures of these methods and of `Pipeline`. redis-py has no public hook for each call.
    def execute_command(self, *args: Any, **options: Any) -> Any:
        return _measured(args[0], lambda: super(Client, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class ConnectionFactory(pool.ConnectionFactory):  # type: ignore[misc]  # it has no types
    """Creates django-redis' connection pools from REDIS_URL: for one server or for a group that Sentinel monitors.

    django-redis' SentinelConnectionFactory treats the service name as a host name and converts it to lower case, does
    not connect with rediss://, and opens clients to all Sentinels in each thread.
    """

    def get_connection_pool(self, params: dict[str, Any]) -> ConnectionPool:
        url = redis_url.parse(params.pop("url"))
        return url.pool({**params, **url.options})
