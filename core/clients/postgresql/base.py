"""Django's PostgreSQL backend, as django-prometheus measures it, on connections whose calls end in time.

A connection counts as in use from a request's first query, or its waiting for a connection, to the request's end: for
as long as a pool would have lent it to the request.
"""

from typing import Any

from django.conf import settings
from django.db import OperationalError
from django.db.backends.postgresql import base as postgresql
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django_prometheus.db.backends.postgresql import base as prometheus

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import NoAnswer
from core.clients.postgresql.probe import ProbeConnection
from core.clients.postgresql.time_limit import request_time_left
from core.metrics import DATABASE_CONNECTIONS

_OPEN = DATABASE_CONNECTIONS.labels("open")
_IN_USE = DATABASE_CONNECTIONS.labels("in_use")
# Seconds for connecting and for the answer. More than readiness takes, so that a slow network is not taken for a hang.
_PROBE_CONNECT_TIMEOUT, _PROBE_TIMEOUT = 3.0, 2.0
_HEALTH_CHECK_TIMEOUT = 2.0  # seconds


class _ConnectingWrapper(postgresql.DatabaseWrapper):
    """Sits below django-prometheus, which counts the connections."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        self.isolation_level = IsolationLevel.READ_COMMITTED
        connection = Connection.connect(**conn_params)
        _OPEN.inc()
        return connection


class DatabaseWrapper(prometheus.DatabaseWrapper, _ConnectingWrapper):  # type: ignore[misc]  # the first has no types
    _in_use = False

    def connect(self) -> None:
        """Connect, or leave no connection behind.

        Django sets `self.connection` before it sets the connection's autocommit. An exception in between would leave a
        connection on which Django believes that autocommit is on while psycopg has it off: everything written on it
        would be acknowledged and never committed.
        """
        self._start_use()
        try:
            super().connect()
        except BaseException:
            self.close()
            raise

    def _close(self) -> None:
        _OPEN.dec()
        super()._close()

    def close_if_health_check_failed(self) -> None:
        """Called before each use of a connection."""
        self._start_use()
        super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Called before and after each request."""
        if self._in_use:
            self._in_use = False
            _IN_USE.dec()
        super().close_if_unusable_or_obsolete()

    def is_usable(self) -> bool:
        """Return whether the connection works and leads to a primary. One that was demoted refuses every write."""
        if self.connection is None:
            return False
        seconds = min(_HEALTH_CHECK_TIMEOUT, request_time_left() / 2)  # the other half is for connecting
        try:
            with self.connection.time_limit(seconds):
                return bool(self.connection.leads_to_primary())
        except self.Database.Error:
            return False

    def open_probe(self, seconds: float) -> ProbeConnection:
        """Return a connection beside the ORM's that is made like them. Connecting and each call have `seconds`."""
        params = self.get_connection_params()
        for only_for_orm in ("cursor_factory", "context", "prepare_threshold"):
            params.pop(only_for_orm, None)
        params |= {"connect_timeout": seconds, "application_name": f"{settings.SERVICE} readiness"}
        connection = ProbeConnection.connect(**params, autocommit=True)
        connection.timeout = seconds
        return connection

    def _start_use(self) -> None:
        if self._in_use:
            return
        if not circuit_breaker.allows(self._probe, request_time_left()):
            raise OperationalError("PostgreSQL does not answer. Try again in a few seconds.") from NoAnswer()
        self._in_use = True
        _IN_USE.inc()

    def _probe(self) -> None:
        connection = self.open_probe(_PROBE_CONNECT_TIMEOUT)
        try:
            connection.check_writable(_PROBE_TIMEOUT)
        finally:
            connection.close()
