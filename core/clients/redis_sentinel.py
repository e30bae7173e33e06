"""Find the primary of a group that Redis Sentinel monitors, for redis-py's SentinelConnectionPool."""

from typing import Any

import redis
import redis.sentinel
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError


class UnknownServiceError(MasterNotFoundError):
    """Sentinels respond, but monitor no service of this name."""


class PrimaryDownError(MasterNotFoundError):
    """Sentinels respond, but report no primary that is up. They are about to promote a replica."""


class Sentinel(redis.sentinel.Sentinel):
    """redis-py's client with a thread-safe order of the Sentinels, and errors with a cause.

    redis-py moves the Sentinel that responded to the front by swapping two items of a shared list. If two threads do so
    at the same time, which a failover makes likely, one Sentinel is listed twice and another one is lost until a
    restart. Its error has no cause, so readiness could not distinguish Sentinels that are down from Sentinels that hang
    or reject the password.
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the host and port of the primary. The Sentinel that responded last time is queried first.

        Raises UnknownServiceError or PrimaryDownError, or MasterNotFoundError if no Sentinel responds.
        """
        sentinels = self.sentinels
        failures: list[RedisError] = []
        is_monitored = False
        for sentinel in sentinels:
            try:
                masters: Any = sentinel.sentinel_masters()
            except RedisError as error:
                failures.append(error)
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                self.sentinels = [sentinel, *(other for other in sentinels if other is not sentinel)]
                return state["ip"], state["port"]
            is_monitored = is_monitored or bool(state)
        if len(failures) == len(sentinels):
            reports = (f"{_address(sentinel)} ({error})" for sentinel, error in zip(sentinels, failures, strict=True))
            raise MasterNotFoundError(f"No Sentinel responded: {', '.join(reports)}") from failures[-1]
        if is_monitored:
            raise PrimaryDownError(f"No primary of {service_name} is up, according to the Sentinels")
        raise UnknownServiceError(f"No Sentinel monitors a service named {service_name}")


def _address(sentinel: redis.Redis) -> str:
    options = sentinel.get_connection_kwargs()
    return f"{options['host']}:{options['port']}"
