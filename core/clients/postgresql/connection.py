"""psycopg connections on which no call waits for ever.

The ORM, readiness and the status page all open their connections with `Connection.connect`, so that what one of them
can reach, the others can reach too.

A frozen server, a network that drops packets and a commit that waits for a lost standby look the same from here: no
answer comes. `statement_timeout` ends none of the three and `tcp_user_timeout` only the second, so the limit is
enforced on the client's side, where it covers all of them (measured: docs/OPERATIONS.md).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg import waiting
from psycopg.abc import ConnDict, PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, _WaitTimeout

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.errors import CommitNotReplicated, NoAnswer, ReadOnly
from core.clients.postgresql.servers import Address, address_of, preference, resolve
from core.clients.postgresql.time_limit import current_time_limit

DEFAULT_CONNECT_TIMEOUT = 5.0  # seconds
INTERVAL = 0.1  # seconds between two checks for Ctrl-C
MIN_TIMEOUT = 0.01  # seconds; a call that has used up its time still gets a chance to fail with its own error


class _Notices:
    """Remembers the one warning of PostgreSQL that turns a success into a failure."""

    has_cancelled_replication = False

    def add(self, notice: Diagnostic) -> None:
        # The function is the same in every language of the server, unlike the message.
        if notice.source_function == "SyncRepWaitForLSN":
            self.has_cancelled_replication = True


class Connection(psycopg.Connection[Any]):
    """A connection whose calls end in time.

    A call that gets no answer in time raises NoAnswer and closes the connection. It does not cancel the statement,
    because cancelling a commit that waits for a synchronous standby makes it visible without replicating it. PostgreSQL
    ends other statements when it notices the closed socket: `client_connection_check_interval` in voiceassist.settings.
    """

    address: Address | None = None  # only where there are several to choose from
    timeout: float | None = None  # seconds for each call; None: the limit of the request, if there is one

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
        """Return a new connection to the first host and address that accepts one, within `connect_timeout` seconds.

        The time is shared among the hosts of the URL and the addresses of their names, beginning with the one that was
        connected to last. Where there are several, standbys are passed over unless `target_session_attrs` says
        otherwise. libpq's own `read-write` is not the default, because it believes what PgBouncer reports, and that is
        what PgBouncer found out about its server earlier.

        Raises NoAnswer if one of them did not answer in time, otherwise what the last one raised.

        This stands in for `psycopg.connect`, which gives each address at least two seconds by libpq's rule. The
        generators that it drives are not public; docs/UPGRADING.md lists them.
        """
        seconds = float(connect_timeout) or DEFAULT_CONNECT_TIMEOUT  # 0 would be libpq's word for no limit
        limit = current_time_limit()
        if limit is not None:
            seconds = min(seconds, limit.left())
        started_at = time.monotonic()
        try:
            connection = cls._connect_any(conninfo_to_dict(**params), seconds)
        except psycopg.Error:
            if limit is not None:
                limit.got_no_answer(time.monotonic() - started_at)
            raise
        if limit is not None:
            limit.got_answer()
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
                generator = cls._connect_gen(make_conninfo("", **attempt))
                connection = waiting.wait_conn(generator, interval=INTERVAL, timeout=max(MIN_TIMEOUT, end - now))
                if len(attempts) > 1:
                    connection._be_one_of_several(attempt, end)
            except _WaitTimeout:
                circuit_breaker.suspect()
                host, port = attempt.get("host", "localhost"), attempt.get("port", 5432)
                errors.append(NoAnswer(f'connection to server at "{host}", port {port} timed out'))
            except psycopg.Error as error:
                errors.append(error)
            else:
                preference.last_success = address_of(attempt)
                connection.add_notice_handler(connection._notices.add)
                return connection
        timed_out = [error for error in errors if isinstance(error, NoAnswer)]
        kind = type((timed_out or errors)[-1])
        raise kind("; ".join(str(error).strip() for error in errors))

    def leads_to_primary(self) -> bool:
        """Return whether the server can be written, as far as one question tells."""
        is_known_not_to = self.address is not None and self.address == preference.cannot_commit
        return not is_known_not_to and not self.is_read_only()

    def is_read_only(self) -> bool:
        """Return whether the server is a standby, or is configured to be read-only."""
        return self.execute("SHOW transaction_read_only").fetchone() != ("off",)

    def _be_one_of_several(self, attempt: ConnDict, end: float) -> None:
        self.address = address_of(attempt)
        if "target_session_attrs" in attempt:
            return
        self._autocommit = True
        with self.time_limit(max(MIN_TIMEOUT, end - time.monotonic())):
            if self.is_read_only():
                host, port = self.info.host, self.info.port
                self.close()
                raise ReadOnly(f'the server at "{host}", port {port} is read-only')

    def wait(self, gen: PQGen[Any], interval: float = INTERVAL, timeout: float | None = None) -> Any:
        """Run one exchange with the server, as every call of psycopg does.

        Raises NoAnswer if it takes longer than `self.timeout`, or than the request may take. Raises CommitNotReplicated
        if an operator cancelled the wait for the synchronous standby, which PostgreSQL reports as a success.
        """
        if timeout is not None:  # psycopg's own, where the end of the time is no failure
            return super().wait(gen, interval, timeout)
        limit = current_time_limit()
        seconds = self.timeout
        if limit is not None:
            seconds = limit.left() if seconds is None else min(seconds, limit.left())
        try:
            answer = super().wait(gen, interval, seconds)
        except _WaitTimeout:
            if limit is not None and seconds is not None:
                limit.got_no_answer(seconds)
            self._give_up(gen)
            raise NoAnswer("PostgreSQL did not answer in time") from None
        if limit is not None:
            limit.got_answer()
        if self._notices.has_cancelled_replication:
            self.pgconn.finish()
            raise CommitNotReplicated("the wait for a synchronous standby was cancelled")
        return answer

    def _give_up(self, gen: PQGen[Any]) -> None:
        self.pgconn.finish()
        circuit_breaker.suspect()

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Limit each call inside to `seconds`."""
        before, self.timeout = self.timeout, seconds
        try:
            yield
        finally:
            self.timeout = before
