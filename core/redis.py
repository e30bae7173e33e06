"""redis-py's client, measured: the cache's, and so that of sessions and whatever else goes through the cache."""

import time
from collections.abc import Callable
from typing import Any

import redis
from redis.client import Pipeline

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
