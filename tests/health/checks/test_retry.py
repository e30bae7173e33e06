"""When a persistent connection is used, retried and renewed, with a clock that only the test moves."""

import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from health.checks import persistent_connection
from health.checks.persistent_connection import MAX_AGE, PersistentConnection
from tests.support.forks import exit_code_in_fork


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Connection:
    def __init__(self, *, fails_to_close: bool = False) -> None:
        self.is_closed = False
        self.fails_to_close = fails_to_close

    def close(self) -> None:
        self.is_closed = True
        if self.fails_to_close:
            raise OSError("the socket is gone")


class Opener:
    """Records the connections that it opens and the timeouts that it gets. Opening one takes `duration` seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.duration = 0.0
        self.opened: list[Connection] = []
        self.timeouts: list[float] = []
        self.fails = False

    def __call__(self, seconds: float) -> Connection:
        self.timeouts.append(seconds)
        self.clock.now += self.duration
        if self.fails:
            raise ConnectionRefusedError
        self.opened.append(Connection())
        return self.opened[-1]


Query = Callable[[Connection, float], float]


def use(connection: Connection, seconds: float) -> float:
    """Return the timeout, if the connection can be used."""
    assert not connection.is_closed
    return seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(persistent_connection, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def connect(clock: Clock) -> Opener:
    return Opener(clock)


@pytest.fixture
def persistent(connect: Opener) -> PersistentConnection[Connection]:
    return PersistentConnection(connect)


def failing_after(duration: float, clock: Clock, *, on: Connection | None = None) -> Query:
    """Return a query that takes `duration` and fails, on the given connection or on each."""

    def query(connection: Connection, seconds: float) -> float:
        if on is None or connection is on:
            clock.now += duration
            raise TimeoutError("no response")
        return use(connection, seconds)

    return query


def test_first_query_has_the_time_that_connecting_has_left(
    persistent: PersistentConnection[Connection], connect: Opener
) -> None:
    connect.duration = 0.75
    assert persistent.run(use, 2.0) == 1.25
    assert connect.timeouts == [2.0]


def test_query_on_an_open_connection_has_half_of_the_time(
    persistent: PersistentConnection[Connection], connect: Opener
) -> None:
    persistent.run(use, 2.0)
    assert persistent.run(use, 2.0) == 1.0
    assert len(connect.opened) == 1


def test_query_that_fails_on_an_open_connection_is_retried_with_the_rest_of_the_time(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    persistent.run(use, 2.0)
    (old,) = connect.opened
    assert persistent.run(failing_after(1.0, clock, on=old), 2.0) == 1.0
    assert connect.timeouts == [2.0, 1.0]
    assert [connection.is_closed for connection in connect.opened] == [True, False]
    assert persistent.run(use, 2.0) == 1.0  # on the new one
    assert len(connect.opened) == 2


def test_failed_query_on_a_new_connection_is_raised_and_closes_it(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError, match="no response"):
            persistent.run(failing_after(0.5, clock), 2.0)
    assert [connection.is_closed for connection in connect.opened] == [True, True]


def test_open_connection_that_failed_is_not_used_again(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    persistent.run(use, 2.0)
    connect.fails = True
    with pytest.raises(ConnectionRefusedError):
        persistent.run(failing_after(0.5, clock), 2.0)
    assert connect.opened[0].is_closed
    connect.fails = False
    assert persistent.run(use, 2.0) == 2.0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted_query_closes_its_connection(
    persistent: PersistentConnection[Connection], connect: Opener, error: type[BaseException]
) -> None:
    def interrupt(connection: Connection, seconds: float) -> None:
        raise error

    with pytest.raises(error):
        persistent.run(interrupt, 2.0)
    assert connect.opened[0].is_closed


def test_no_timeout_is_zero(persistent: PersistentConnection[Connection], connect: Opener, clock: Clock) -> None:
    """For sockets and libpq, 0 would mean to wait for ever or not at all."""
    connect.duration = 5.0
    assert persistent.run(use, 2.0) == 0.01
    assert persistent.run(use, 0.01) == 0.01
    with pytest.raises(TimeoutError):
        persistent.run(failing_after(5.0, clock), 2.0)
    assert connect.timeouts == [2.0, 0.01]


def test_failure_to_close_hides_nothing(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    persistent.run(use, 2.0)
    connect.opened[0].fails_to_close = True
    assert persistent.run(failing_after(0.5, clock, on=connect.opened[0]), 2.0) == 1.5
    persistent.drop()
    assert [connection.is_closed for connection in connect.opened] == [True, True]
    persistent.drop()  # does nothing


# Renewal


def test_connection_is_renewed_at_the_maximum_age(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    persistent.run(use, 2.0)
    clock.now += 3599.5
    persistent.run(use, 2.0)
    assert len(connect.opened) == 1
    clock.now += 0.5
    assert persistent.run(use, 2.0) == 1.0  # the other half is for the open connection
    assert connect.timeouts == [2.0, 1.0]
    assert [connection.is_closed for connection in connect.opened] == [True, False]
    clock.now += MAX_AGE - 1
    persistent.run(use, 2.0)
    assert len(connect.opened) == 2


def test_failed_renewal_keeps_the_open_connection_and_is_repeated_after_the_maximum_age(
    persistent: PersistentConnection[Connection], connect: Opener, clock: Clock
) -> None:
    persistent.run(use, 2.0)
    clock.now += MAX_AGE
    connect.fails, connect.duration = True, 1.0
    assert persistent.run(use, 2.0) == 0.5
    assert len(connect.timeouts) == 2
    persistent.run(use, 2.0)
    assert len(connect.timeouts) == 2
    assert not connect.opened[0].is_closed
    clock.now += MAX_AGE
    persistent.run(use, 2.0)
    assert len(connect.timeouts) == 3


# Several threads


def test_checks_that_share_a_connection_take_turns() -> None:
    persistent = PersistentConnection(lambda seconds: Connection())
    is_running, may_end = threading.Event(), threading.Event()

    def hold(connection: Connection, seconds: float) -> None:
        is_running.set()
        may_end.wait(20)

    thread = threading.Thread(target=persistent.run, args=(hold, 20.0))
    thread.start()
    assert is_running.wait(20)
    with pytest.raises(TimeoutError, match="another check waits for the same server"):
        persistent.run(use, 0.01)
    may_end.set()
    thread.join(20)
    assert persistent.run(use, 20.0) > 5


@pytest.mark.parametrize("method", ["run", "drop"])
def test_forked_process_leaves_the_connection_to_its_parent(
    method: str, persistent: PersistentConnection[Connection], connect: Opener
) -> None:
    """It closes and deletes nothing, because both would send a message on the socket of its parent."""
    persistent.run(use, 2.0)
    inherited = weakref.ref(connect.opened.pop())

    def use_in_fork() -> None:
        if method == "drop":
            persistent.drop()
        assert persistent.run(use, 0.5) == 0.5  # the whole time limit, on a new connection
        connection = inherited()
        assert connection
        assert not connection.is_closed
        persistent.drop()
        assert connect.opened.pop().is_closed

    with persistent._lock:  # as of a thread that does not exist in the new process
        assert exit_code_in_fork(use_in_fork) == 0
    assert persistent.run(use, 2.0) == 1.0
    assert connect.opened == []
