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
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo
from psycopg.errors import _WaitTimeout

from core.postgresql.circuit_breaker import circuit_breaker
from core.postgresql.errors import NoAnswer, ReadOnly
from core.postgresql.time_limit import current_time_limit

DEFAULT_CONNECT_TIMEOUT = 5.0  # seconds
INTERVAL = 0.1  # seconds between two checks for Ctrl-C
MIN_TIMEOUT = 0.01  # seconds; a call that has used up its time still gets a chance to fail with its own error

Address = tuple[Any, Any, Any]  # host, hostaddr, port


class Connection(psycopg.Connection[Any]):
    """A connection whose calls end in time.

    A call that gets no answer in time raises NoAnswer and closes the connection. It does not cancel the statement,
    because cancelling a commit that waits for a synchronous standby makes it visible without replicating it. PostgreSQL
    ends other statements when it notices the closed socket: `client_connection_check_interval` in voiceassist.settings.
    """

    address: Address | None = None
    timeout: float | None = None  # seconds for each call; None: the limit of the request, if there is one

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
        connection = cls._connect_any(preference.order(conninfo_attempts(conninfo_to_dict(**params))), seconds)
        if limit is not None:
            limit.renew()
        connection._autocommit = autocommit
        connection.prepare_threshold = prepare_threshold
        if context is not None:
            connection._adapters = AdaptersMap(context.adapters)
        if cursor_factory is not None:
            connection.cursor_factory = cursor_factory
        return connection

    @classmethod
    def _connect_any(cls, attempts: list[ConnDict], seconds: float) -> Self:
        deadline = time.monotonic() + seconds
        errors: list[psycopg.Error] = []
        for index, attempt in enumerate(attempts):
            left = (deadline - time.monotonic()) / (len(attempts) - index)
            try:
                generator = cls._connect_gen(make_conninfo("", **attempt))
                connection = waiting.wait_conn(generator, interval=INTERVAL, timeout=max(MIN_TIMEOUT, left))
                if len(attempts) > 1 and "target_session_attrs" not in attempt:
                    connection._refuse_standby(left)
            except _WaitTimeout:
                circuit_breaker.suspect()
                host, port = attempt.get("host", "localhost"), attempt.get("port", 5432)
                errors.append(NoAnswer(f'connection to server at "{host}", port {port} timed out'))
            except psycopg.Error as error:
                errors.append(error)
            else:
                connection.address = preference.last_success = _address(attempt)
                return connection
        timed_out = [error for error in errors if isinstance(error, NoAnswer)]
        kind = type((timed_out or errors)[-1])
        raise kind("; ".join(str(error).strip() for error in errors))

    def leads_to_primary(self) -> bool:
        """Return whether the server can be written, as far as one question tells."""
        return self.address != preference.cannot_commit and not self.is_read_only()

    def is_read_only(self) -> bool:
        """Return whether the server is a standby, or is configured to be read-only."""
        return self.execute("SHOW transaction_read_only").fetchone() != ("off",)

    def _refuse_standby(self, seconds: float) -> None:
        self._autocommit = True
        with self.time_limit(seconds):
            if self.is_read_only():
                host, port = self.info.host, self.info.port
                self.close()
                raise ReadOnly(f'the server at "{host}", port {port} is read-only')

    def wait(self, gen: PQGen[Any], interval: float = INTERVAL, timeout: float | None = None) -> Any:
        """Run one exchange with the server, as every call of psycopg does.

        Raises NoAnswer if it takes longer than `self.timeout`, or than the request may take.
        """
        if timeout is not None:  # psycopg's own, where the end of the time is no failure
            return super().wait(gen, interval, timeout)
        limit = current_time_limit()
        seconds = self.timeout
        if limit is not None:
            seconds = limit.left() if seconds is None else min(seconds, limit.left())
        if seconds is None:
            return super().wait(gen, interval)
        try:
            answer = super().wait(gen, interval, max(0.0, seconds))
        except _WaitTimeout:
            self._give_up(gen)
            raise NoAnswer("PostgreSQL did not answer in time") from None
        if limit is not None:
            limit.renew()
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


def _address(attempt: ConnDict) -> Address:
    return attempt.get("host"), attempt.get("hostaddr"), attempt.get("port")


class _Preference:
    """Which of several servers to try first, for all connections of this process."""

    # A dead first host then costs one connection its share of the time, not all of them.
    last_success: Address | None = None
    # A primary that can't commit, because it lost its synchronous standby. If that standby has been promoted, both of
    # them accept connections, and only the new primary can commit.
    cannot_commit: Address | None = None

    def order(self, attempts: list[ConnDict]) -> list[ConnDict]:
        def rank(attempt: ConnDict) -> tuple[bool, bool]:
            address = _address(attempt)
            return address == self.cannot_commit, address != self.last_success

        return sorted(attempts, key=rank)


preference = _Preference()
