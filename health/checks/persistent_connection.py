"""A connection that a check reuses until a query fails."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)
R = TypeVar("R")

# Seconds after which a check tries a new connection. An old one shows neither a renewed certificate of the server nor
# new settings of the database.
MAX_AGE = 3600.0
_MIN_TIMEOUT = 0.01  # seconds; 0 would mean "no timeout"


class PersistentConnection(Generic[C]):
    """A connection made by `connect(timeout)`. Checks that share it take turns. A forked process opens a new one."""

    def __init__(self, connect: Callable[[float], C]) -> None:
        self._connect = connect
        self._connection: C | None = None
        self._renew_at = 0.0  # time.monotonic()
        self._lock = threading.Lock()
        self._pid = os.getpid()  # of the process that opened the connection
        self._inherited: list[C | None] = []

    def run(self, query: Callable[[C, float], R], seconds: float) -> R:
        """Return the result of `query(connection, timeout)`, within `seconds`.

        An open connection may be stale, because the server restarted or a firewall dropped it. That is no outage, so a
        query that fails on it within half of the time is retried on a new connection.
        """
        deadline = time.monotonic() + seconds
        self._leave_to_parent()
        if not self._lock.acquire(timeout=max(_MIN_TIMEOUT, seconds)):
            raise TimeoutError("another check waits for the same server")
        try:
            return self._run(query, deadline)
        finally:
            self._lock.release()

    def _run(self, query: Callable[[C, float], R], deadline: float) -> R:
        if self._connection is not None:
            if time.monotonic() >= self._renew_at:
                self._renew_at = time.monotonic() + MAX_AGE
                with suppress(Exception):  # as long as the open connection works, there is no outage
                    return self._run_on_new_connection(query, (time.monotonic() + deadline) / 2)
            try:
                return query(self._connection, max(_MIN_TIMEOUT, (deadline - time.monotonic()) / 2))
            except Exception:
                self.drop()
        return self._run_on_new_connection(query, deadline)

    def _run_on_new_connection(self, query: Callable[[C, float], R], deadline: float) -> R:
        connection = self._connect(max(_MIN_TIMEOUT, deadline - time.monotonic()))
        try:
            result = query(connection, max(_MIN_TIMEOUT, deadline - time.monotonic()))
        except BaseException:
            _close(connection)
            raise
        self.drop()
        self._connection, self._renew_at = connection, time.monotonic() + MAX_AGE
        return result

    def drop(self) -> None:
        self._leave_to_parent()
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    def _leave_to_parent(self) -> None:
        """Forget a connection of the parent process without closing it, because the parent still uses it.

        Its reference is kept, because a destructor might send a message on the shared socket. The lock is replaced,
        because a thread of the parent may hold it.
        """
        if self._pid != os.getpid():
            self._inherited.append(self._connection)
            self._connection, self._lock, self._pid = None, threading.Lock(), os.getpid()


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # ignored, because the original exception is the one to report
        return
