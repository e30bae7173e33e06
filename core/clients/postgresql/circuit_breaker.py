"""Refuses database calls at once while PostgreSQL is known not to answer.

Every call has a time limit, but a request that waits for it holds a thread for that long, and soon no thread would be
left. The state belongs to the process and needs no background thread: the callers themselves find out when PostgreSQL
answers again.

    closed      Calls go through.
    suspected   A call got no answer. The next caller sends a probe first; others wait for its result.
    open        A probe got no answer either. Callers are refused, except one every RETRY_INTERVAL, which probes again.

Libraries for circuit breakers let a real call through to find out; here that call may write, and has a time limit that
is too long for it.
"""

import math
import threading
import time
from collections.abc import Callable
from enum import Enum

import psycopg

from core.clients.postgresql.errors import NoAnswer

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
        """Make the next caller probe, because a call got no answer."""
        if self._state is State.CLOSED:
            self._state = State.SUSPECTED

    def open(self) -> None:
        """Refuse callers, because a probe got no answer."""
        self._state = State.OPEN
        self._next_probe = time.monotonic() + RETRY_INTERVAL

    def close(self) -> None:
        """Let callers through, because a probe was answered."""
        self._state = State.CLOSED

    def allows(self, probe: Callable[[], None], seconds: float = math.inf) -> bool:
        """Return whether the caller may use PostgreSQL, within `seconds` beside the time of a probe.

        May run `probe`, which raises NoAnswer if no answer comes.
        """
        if self.is_in(State.CLOSED):
            return True
        timeout = min(seconds, threading.TIMEOUT_MAX) if self.is_in(State.SUSPECTED) else 0
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            waiting = self.is_in(State.OPEN) and time.monotonic() < self._next_probe
            if not self.is_in(State.CLOSED) and not waiting:
                self._probe(probe)
            return self.is_in(State.CLOSED)
        finally:
            self._lock.release()

    def _probe(self, probe: Callable[[], None]) -> None:
        try:
            probe()
        except NoAnswer:
            self.open()
        except psycopg.Error:
            self.close()  # it fails at once, and so will the call itself
        else:
            self.close()


circuit_breaker = CircuitBreaker()
