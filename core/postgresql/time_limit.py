"""How long a request may wait for PostgreSQL."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class RequestTimeLimit:
    """How long a request may wait for PostgreSQL: `seconds` since the request began or the last answer came."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        self.expires = time.monotonic() + self.seconds

    def left(self) -> float:
        return self.expires - time.monotonic()


_request_limit: ContextVar[RequestTimeLimit | None] = ContextVar("request_limit", default=None)


def current_time_limit() -> RequestTimeLimit | None:
    """Return the limit of the request that this code runs for, None outside of a request."""
    return _request_limit.get()


def request_time_left() -> float:
    """Return the seconds that this request may still wait for PostgreSQL; infinity outside of a request."""
    limit = _request_limit.get()
    return math.inf if limit is None else max(0.0, limit.left())


@contextmanager
def request_time_limit(seconds: float) -> Iterator[None]:
    """Limit every database call inside to `seconds`. Outside, as in management commands, calls have no limit."""
    token = _request_limit.set(RequestTimeLimit(seconds))
    try:
        yield
    finally:
        _request_limit.reset(token)
