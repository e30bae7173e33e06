"""A circuit breaker that rejects database calls immediately while PostgreSQL does not respond.

Every call has a time limit, but a request that waits for it occupies a thread, and soon no thread would be free. Each
process has one breaker. It needs no background thread, because callers send the probes.

    closed      Calls are allowed.
    suspected   A call got no response. The next caller sends a probe first; other callers wait for its result.
    open        A probe got no response. Callers are rejected, except one per RETRY_INTERVAL, which probes again.

Circuit breaker libraries test recovery with a real call. Ours might write, and its time limit is too long for a test.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from enum import Enum

import psycopg

from core.clients.postgresql.errors import NoResponse

RETRY_INTERVAL = 2.0  # seconds


class State(Enum):
    CLOSED = "closed"
    SUSPECTED = "suspected"
    OPEN = "open"


class CircuitBreaker:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._next_probe = 0.0  # time.monotonic()

    def is_in(self, state: State) -> bool:
        return self._state is state

    def suspect(self) -> None:
        """Make the next caller probe, because a call got no response."""
        if self._state is State.CLOSED:
            self._state = State.SUSPECTED

    def open(self) -> None:
        """Reject callers, because a probe got no response."""
        self._state = State.OPEN
        self._next_probe = time.monotonic() + RETRY_INTERVAL

    def close(self) -> None:
        """Allow calls, because a probe got a response."""
        self._state = State.CLOSED

    def allows(self, probe: Callable[[], None], seconds: float = math.inf) -> bool:
        """Return whether the caller may use PostgreSQL. Wait at most `seconds` for another caller's probe.

        May call `probe`, which has to raise NoResponse if PostgreSQL does not respond.
        """
        if self.is_in(State.CLOSED):
            return True
        timeout = min(seconds, threading.TIMEOUT_MAX) if self.is_in(State.SUSPECTED) else 0
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            is_too_early = self.is_in(State.OPEN) and time.monotonic() < self._next_probe
            if not self.is_in(State.CLOSED) and not is_too_early:
                self._probe(probe)
            return self.is_in(State.CLOSED)
        finally:
            self._lock.release()

    def _probe(self, probe: Callable[[], None]) -> None:
        try:
            probe()
        except NoResponse:
            self.open()
        except psycopg.Error:
            self.close()  # PostgreSQL fails at once, so calls need no protection and raise the error themselves
        else:
            self.close()


circuit_breaker = CircuitBreaker()


def _reset_after_fork() -> None:
    circuit_breaker._lock = threading.Lock()


# A forked child has none of its parent's threads, so a lock that one of them held would stay locked.
os.register_at_fork(after_in_child=_reset_after_fork)
