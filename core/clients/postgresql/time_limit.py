"""How long a request may wait for PostgreSQL."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class RequestTimeLimit:
    """The seconds that a request may wait for PostgreSQL between two answers. Time spent elsewhere doesn't count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waited = 0.0  # since the last answer

    def left(self) -> float:
        return max(0.0, self.seconds - self._waited)

    def got_answer(self) -> None:
        self._waited = 0.0

    def got_no_answer(self, seconds: float) -> None:
        self._waited += seconds


_request_limit: ContextVar[RequestTimeLimit | None] = ContextVar("request_limit", default=None)


def current_time_limit() -> RequestTimeLimit | None:
    """Return the limit of the request that this code runs for, None outside of a request."""
    return _request_limit.get()


def request_time_left() -> float:
    """Return the seconds that this request may still wait for PostgreSQL; infinity outside of a request."""
    limit = _request_limit.get()
    return math.inf if limit is None else limit.left()


@contextmanager
def request_time_limit(seconds: float) -> Iterator[None]:
    """Limit every database call inside to `seconds`. Outside, as in management commands, calls have no limit."""
    token = _request_limit.set(RequestTimeLimit(seconds))
    try:
        yield
    finally:
        _request_limit.reset(token)
