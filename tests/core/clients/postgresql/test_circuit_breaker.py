import threading
import time
from collections.abc import Callable

import psycopg

from core.clients.postgresql.circuit_breaker import CircuitBreaker, State, circuit_breaker
from core.clients.postgresql.errors import NoResponse
from tests.support.forks import exit_code_in_fork


def failing_probe(error: Exception) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def test_closed_breaker_does_not_probe() -> None:
    assert CircuitBreaker().allows(failing_probe(AssertionError()))


def test_suspected_outage_makes_next_caller_probe() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    assert breaker.allows(lambda: None)
    assert breaker.is_in(State.CLOSED)
    breaker.suspect()
    assert not breaker.allows(failing_probe(NoResponse()))
    assert breaker.is_in(State.OPEN)


def test_open_breaker_rejects_until_retry_interval_is_over() -> None:
    breaker = CircuitBreaker()
    breaker.open()
    assert not breaker.allows(failing_probe(AssertionError()))
    breaker._next_probe = time.monotonic() - 1
    assert not breaker.allows(failing_probe(NoResponse()))
    assert not breaker.allows(failing_probe(AssertionError()))
    breaker._next_probe = time.monotonic() - 1
    assert breaker.allows(lambda: None)
    assert breaker.allows(failing_probe(AssertionError()))


def test_immediate_error_closes_breaker() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    assert breaker.allows(failing_probe(psycopg.OperationalError("connection refused")))


def test_waits_for_other_probe_within_time_limit() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    with breaker._lock:
        assert not breaker.allows(failing_probe(AssertionError()), seconds=0.1)


def test_callers_wait_for_first_probe_and_are_rejected_during_later_ones() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    probing, proceed = threading.Event(), threading.Event()

    def slow_probe() -> None:
        probing.set()
        proceed.wait(10)
        raise NoResponse

    results: list[bool] = []
    callers = [threading.Thread(target=lambda: results.append(breaker.allows(slow_probe))) for _ in range(3)]
    for caller in callers:
        caller.start()
    assert probing.wait(10)
    assert results == []
    proceed.set()
    for caller in callers:
        caller.join(10)
    assert results == [False] * 3
    breaker._next_probe = 0.0
    probing.clear()
    proceed.clear()
    prober = threading.Thread(target=lambda: results.append(breaker.allows(slow_probe)))
    prober.start()
    assert probing.wait(10)
    assert not breaker.allows(failing_probe(AssertionError()))
    proceed.set()
    prober.join(10)


def test_forked_process_can_probe_while_a_thread_of_its_parent_does() -> None:
    def probe() -> None:
        assert circuit_breaker.allows(lambda: None, 1)

    circuit_breaker.suspect()
    try:
        with circuit_breaker._lock:
            assert exit_code_in_fork(probe) == 0
    finally:
        circuit_breaker.close()
