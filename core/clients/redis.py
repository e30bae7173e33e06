"""redis-py's client, measured: the cache's, and so that of sessions and whatever else goes through the cache."""

import time
from collections.abc import Callable
from typing import Any

import redis
from django_redis import pool
from redis.client import Pipeline
from redis.connection import ConnectionPool

from core.clients import redis_url
from core.metrics import REDIS_CALLS

# What Django's cache becomes. A pipeline is one call.
_COMMANDS = {"GET", "SET", "MGET", "DEL", "EXISTS", "INCRBY", "PEXPIRE", "PERSIST", "PTTL", "EVALSHA", "pipeline"}


def _measured(command: str, call: Callable[[], Any]) -> Any:
    outcome = "error"
    began = time.perf_counter()
    try:
        answer = call()
        outcome = "ok"
        return answer
    finally:
        REDIS_CALLS.labels(command if command in _COMMANDS else "other", outcome).observe(time.perf_counter() - began)


class _Pipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        answers: list[Any] = _measured("pipeline", lambda: super(_Pipeline, self).execute(raise_on_error))
        return answers


class Client(redis.Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        return _measured(args[0], lambda: super(Client, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class ConnectionFactory(pool.ConnectionFactory):  # type: ignore[misc]  # it has no types
    """Gives django-redis the pools that REDIS_URL asks for, of a server or of a group that Sentinel watches.

    django-redis' own SentinelConnectionFactory is not used: it takes the service's name for a host name and makes it
    lower case, does not connect under rediss://, and keeps clients of all Sentinels for each thread.
    """

    def get_connection_pool(self, params: dict[str, Any]) -> ConnectionPool:
        url = redis_url.parse(params.pop("url"))
        return url.pool({**params, **url.options})
