"""Limit how long a request may wait for PostgreSQL."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class RequestTimeLimit:
    """The seconds that a request may wait for PostgreSQL between two responses."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waited = 0.0  # seconds since the last response

    def remaining(self) -> float:
        return max(0.0, self.seconds - self._waited)

    def reset(self) -> None:
        """Restore the whole limit after a response."""
        self._waited = 0.0

    def use(self, seconds: float) -> None:
        """Subtract the seconds of a call without a response."""
        self._waited += seconds


_request_limit: ContextVar[RequestTimeLimit | None] = ContextVar("request_limit", default=None)


def current_time_limit() -> RequestTimeLimit | None:
    """Return the limit of the current request, None outside of a request."""
    return _request_limit.get()


def request_time_left() -> float:
    """Return the seconds that the current request may still wait for PostgreSQL, infinity outside of a request."""
    limit = _request_limit.get()
    return math.inf if limit is None else limit.remaining()


@contextmanager
def request_time_limit(seconds: float) -> Iterator[None]:
    """Limit every database call inside the block to `seconds`. Management commands have no limit."""
    token = _request_limit.set(RequestTimeLimit(seconds))
    try:
        yield
    finally:
        _request_limit.reset(token)
