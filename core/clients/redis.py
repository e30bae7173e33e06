"""redis-py's client with metrics. Django's cache uses it, and through the cache web sessions do.

A call waits up to a second for a server that hangs, and a request sends several. So after a call without a response
this process does not use the cache, except for one caller in each RETRY_INTERVAL, who tries whether Redis responds
again. Values are still deleted, because outdated ones must not stay. Sentinels that hang are not noticed, because open
connections to the primary still work.
"""

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import redis
from django_redis import pool as django_redis_pool
from redis.client import Pipeline
from redis.connection import ConnectionPool

from core.clients import redis_url
from core.metrics import REDIS_CALLS

RETRY_INTERVAL = 2.0  # seconds
_SKIPPED = ("GET", "SET")  # while Redis does not respond
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


# When one caller tries again, in time.monotonic(), for the pools whose server did not respond.
_retry_at: WeakKeyDictionary[ConnectionPool, float] = WeakKeyDictionary()


class Client(redis.Redis):
    # Private: the signatures of these methods and of `Pipeline`. redis-py has no public hook for each call.
    def execute_command(self, *args: Any, **options: Any) -> Any:
        pool = self.connection_pool
        retry_at = _retry_at.get(pool)
        if retry_at is not None and args[0] in _SKIPPED:
            if time.monotonic() < retry_at:
                raise redis.ConnectionError("Redis did not respond a moment ago.")
            _retry_at[pool] = time.monotonic() + RETRY_INTERVAL  # other callers do not wait for this one
        try:
            result = _measured(args[0], lambda: super(Client, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]
        except redis.TimeoutError:
            _retry_at[pool] = time.monotonic() + RETRY_INTERVAL
            raise
        _retry_at.pop(pool, None)
        return result

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class ConnectionFactory(django_redis_pool.ConnectionFactory):  # type: ignore[misc]  # it has no types
    """Creates django-redis' connection pools from REDIS_URL: for one server or for a group that Sentinel monitors.

    django-redis' SentinelConnectionFactory treats the service name as a host name and converts it to lower case, does
    not connect with rediss://, and opens clients to all Sentinels in each thread.
    """

    def get_connection_pool(self, params: dict[str, Any]) -> ConnectionPool:
        url = redis_url.parse(params.pop("url"))
        return url.pool({**params, **url.options})
