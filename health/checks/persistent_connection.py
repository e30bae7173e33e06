"""A connection that a check keeps for itself while the other side is healthy, and drops after any failure."""

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Connection)
R = TypeVar("R")


class PersistentConnection(Generic[C]):
    """`open(seconds)` makes a connection. One thread at a time uses it: the runner sees to that."""

    def __init__(self, open: Callable[[float], C]) -> None:
        self._open = open
        self._connection: C | None = None

    def ask(self, question: Callable[[C, float], R], seconds: float) -> R:
        """Returns the answer to `question(connection, seconds)`.

        A kept connection may be stale: its server was restarted, or a firewall forgot it. That is no outage, so what
        fails on a kept one, within half of the time, is asked once more on a fresh one. Raises what that one raises.
        """
        end = time.monotonic() + seconds
        if self._connection is not None:
            try:
                return question(self._connection, seconds / 2)
            except Exception:
                self.drop()
        connection = self._open(max(0.01, end - time.monotonic()))
        try:
            answer = question(connection, max(0.01, end - time.monotonic()))
        except BaseException:
            _close(connection)
            raise
        self._connection = connection
        return answer

    def drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except Exception:  # it is of no use any more, and the failure that led here is the one to tell
        return
