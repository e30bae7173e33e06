"""psycopg connections with a time limit for every call.

The ORM and readiness open their connections with `Connection.connect`, so readiness reports what requests experience.

A frozen server, a network that drops packets, and a commit that waits for a lost standby look the same to a client: no
response. `statement_timeout` ends none of the three and `tcp_user_timeout` only the second, so the client enforces the
limit (measured in docs/OPERATIONS.md). psycopg has no public hook for that, so private parts of it are used:
`_WaitTimeout`, `_autocommit`, `_adapters`, `wait` (reasons in docs/UPGRADING.md).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg.abc import ConnDict, PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, _WaitTimeout

from core.clients.postgresql import connection_attempt
from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.errors import CommitNotReplicated, NoResponse, ReadOnly
from core.clients.postgresql.servers import Address, address_of, preference, resolve
from core.clients.postgresql.time_limit import current_time_limit

DEFAULT_CONNECT_TIMEOUT = 5.0  # seconds
WAIT_INTERVAL = 0.1  # seconds between two checks for Ctrl-C
MIN_TIMEOUT = 0.01  # seconds, so that a call fails with its own error even if no time is left


class _Notices:
    """Records PostgreSQL's warning that a commit was not replicated, although it reports a success."""

    has_cancelled_replication = False

    def add(self, notice: Diagnostic) -> None:
        # Unlike the message, the function name is not translated.
        if notice.source_function == "SyncRepWaitForLSN":
            self.has_cancelled_replication = True


def _joined(errors: list[psycopg.Error]) -> psycopg.Error:
    """Return one error for all servers. Its class is the one that matters most, its SQLSTATE the last one received."""
    classes = [type(error) for error in errors]
    error_class = next((c for c in (NoResponse, ReadOnly) if c in classes), classes[-1])
    joined = error_class("; ".join(str(error).strip() for error in errors))
    joined.sqlstate = next((error.sqlstate for error in reversed(errors) if error.sqlstate), None)
    return joined


class Connection(psycopg.Connection[Any]):
    """A connection whose calls have a time limit.

    A call that times out raises NoResponse and closes the connection. It does not cancel the statement, because
    cancelling a commit that waits for a synchronous standby makes it visible without replicating it. PostgreSQL ends
    other statements when it notices the closed socket (`client_connection_check_interval` in voiceassist.settings).
    """

    address: Address | None = None  # None if there is only one server
    timeout: float | None = None  # seconds per call; None means the limit of the current request, if any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._notices = _Notices()

    @classmethod
    def connect(  # type: ignore[override]  # stricter: no connection string, and a timeout in fractions of a second
        cls,
        *,
        connect_timeout: float | str = DEFAULT_CONNECT_TIMEOUT,
        autocommit: bool = False,
        prepare_threshold: int | None = None,
        context: Any = None,
        cursor_factory: Any = None,
        **params: Any,
    ) -> Self:
        """Return a connection to the first server that accepts one, within `connect_timeout` seconds.

        All hosts and addresses share the time, unlike in `psycopg.connect`, which gives each at least two seconds. The
        server that was connected to last is tried first. If there are several, standbys are skipped unless
        `target_session_attrs` is set. libpq's own `read-write` is not the default, because PgBouncer reports that state
        from a cache, which may be stale.

        Raises NoResponse if any server timed out, otherwise ReadOnly if any server is a standby, otherwise
        psycopg.OperationalError. The error has the SQLSTATE that a server sent.
        """
        seconds = float(connect_timeout) or DEFAULT_CONNECT_TIMEOUT  # for libpq, 0 means no limit
        limit = current_time_limit()
        if limit is not None:
            seconds = min(seconds, limit.remaining())
        started_at = time.monotonic()
        try:
            connection = cls._connect_any(conninfo_to_dict(**params), seconds)
        except psycopg.Error:
            if limit is not None:
                limit.use(time.monotonic() - started_at)
            raise
        if limit is not None:
            limit.reset()
        connection._autocommit = autocommit
        connection.prepare_threshold = prepare_threshold
        if context is not None:
            connection._adapters = AdaptersMap(context.adapters)
        if cursor_factory is not None:
            connection.cursor_factory = cursor_factory
        return connection

    @classmethod
    def _connect_any(cls, params: ConnDict, seconds: float) -> Self:
        deadline = time.monotonic() + seconds
        attempts = preference.order(resolve(params, seconds))
        errors: list[psycopg.Error] = []
        for index, attempt in enumerate(attempts):
            now = time.monotonic()
            end = now + (deadline - now) / (len(attempts) - index)
            try:
                connection = cls(connection_attempt.connect(make_conninfo("", **attempt), max(MIN_TIMEOUT, end - now)))
                if len(attempts) > 1:
                    connection._reject_standby(attempt, end)
            except NoResponse:
                circuit_breaker.suspect()
                host, port = attempt.get("host", "localhost"), attempt.get("port", 5432)
                errors.append(NoResponse(f'connection to server at "{host}", port {port} timed out'))
            except psycopg.Error as error:
                errors.append(error)
            else:
                preference.last_success = address_of(attempt)
                connection.add_notice_handler(connection._notices.add)
                return connection
        raise _joined(errors)

    def leads_to_primary(self) -> bool:
        """Return whether the server is a primary, and not one that is known to be unable to commit."""
        cannot_commit = self.address is not None and self.address == preference.cannot_commit
        return not cannot_commit and not self.is_read_only()

    def is_read_only(self) -> bool:
        """Return whether the server is a standby, or configured as read-only."""
        return self.execute("SHOW transaction_read_only").fetchone() != ("off",)

    def _reject_standby(self, attempt: ConnDict, end: float) -> None:
        """Close the connection and raise ReadOnly if the server is read-only and the URL does not allow that."""
        self.address = address_of(attempt)
        if "target_session_attrs" in attempt:
            return
        self._autocommit = True
        with self.time_limit(max(MIN_TIMEOUT, end - time.monotonic())):
            if self.is_read_only():
                host, port = self.info.host, self.info.port
                self.close()
                raise ReadOnly(f'the server at "{host}", port {port} is read-only')

    def wait(self, gen: PQGen[Any], interval: float = WAIT_INTERVAL, timeout: float | None = None) -> Any:
        """Run one exchange with the server. Every call of psycopg goes through this method.

        Raises NoResponse if it takes longer than `self.timeout` or the time limit of the request. Raises
        CommitNotReplicated if an operator cancelled the wait for the synchronous standby, which PostgreSQL reports as a
        success.
        """
        if timeout is not None:  # psycopg's own call, for which the timeout is not an error
            return super().wait(gen, interval, timeout)
        limit = current_time_limit()
        seconds = self.timeout
        if limit is not None:
            seconds = limit.remaining() if seconds is None else min(seconds, limit.remaining())
        try:
            result = super().wait(gen, interval, seconds)
        except _WaitTimeout:
            assert seconds is not None
            if limit is not None:
                limit.use(seconds)
            self._handle_timeout(gen)
            raise NoResponse(f"PostgreSQL did not respond to a statement within {seconds:.1f} s.") from None
        if limit is not None:
            limit.reset()
        if self._notices.has_cancelled_replication:
            self.pgconn.finish()
            raise CommitNotReplicated(
                "The wait for a synchronous standby was cancelled, so the commit is not replicated."
            )
        return result

    def _handle_timeout(self, gen: PQGen[Any]) -> None:
        self.pgconn.finish()
        circuit_breaker.suspect()

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Limit each call inside the block to `seconds`."""
        previous, self.timeout = self.timeout, seconds
        try:
            yield
        finally:
            self.timeout = previous
