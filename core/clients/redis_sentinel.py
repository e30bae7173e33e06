"""Finds the primary of a group that Redis Sentinel watches, for redis-py's SentinelConnectionPool."""

from typing import Any

import redis
import redis.sentinel
from redis.exceptions import RedisError
from redis.sentinel import MasterNotFoundError


class UnknownServiceError(MasterNotFoundError):
    """Sentinels answer, but watch no service of this name."""


class PrimaryDownError(MasterNotFoundError):
    """Sentinels answer, but know no primary that is up. They are about to promote a replica."""


class Sentinel(redis.sentinel.Sentinel):
    """redis-py's client, except for how it orders the Sentinels and what it reports when it finds no primary.

    redis-py moves the Sentinel that answered to the front by swapping two items of its list. When two threads do so at
    the same time, which a failover makes likely, one Sentinel is listed twice and another one is lost for good. Here
    the list is replaced as a whole. redis-py's error has no cause either, so that readiness could not tell Sentinels
    that are gone from Sentinels that hang or refuse the password.
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the host and port of the primary. The Sentinel that answered last time is asked first."""
        sentinels = self.sentinels
        failures: list[RedisError] = []
        is_watched = False
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
            is_watched = is_watched or bool(state)
        if len(failures) == len(sentinels):
            reports = (f"{_address(one)} ({error})" for one, error in zip(sentinels, failures, strict=True))
            raise MasterNotFoundError(f"No Sentinel answers: {', '.join(reports)}") from failures[-1]
        if is_watched:
            raise PrimaryDownError(f"The Sentinels report no primary of {service_name} that is up")
        raise UnknownServiceError(f"No Sentinel that answers watches a service named {service_name}")


def _address(sentinel: redis.Redis) -> str:
    options = sentinel.get_connection_kwargs()
    return f"{options['host']}:{options['port']}"
