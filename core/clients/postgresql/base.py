"""Django's PostgreSQL backend with django-prometheus' metrics, and with connections that have time limits.

The metric "in use" counts a connection from the first query of a request until its end, as a pool would.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from django.conf import settings
from django.db import OperationalError
from django.db.backends.postgresql import base as postgresql
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django_prometheus.db.backends.postgresql import base as prometheus

from core import secret_files
from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import NoResponse
from core.clients.postgresql.probe import ProbeConnection
from core.clients.postgresql.time_limit import request_time_left
from core.metrics import DATABASE_CONNECTIONS

_OPEN = DATABASE_CONNECTIONS.labels("open")
_IN_USE = DATABASE_CONNECTIONS.labels("in_use")
# Seconds. Longer than readiness allows, so that a slow network is not mistaken for an outage.
_PROBE_CONNECT_TIMEOUT, _PROBE_TIMEOUT = 3.0, 2.0
_HEALTH_CHECK_TIMEOUT = 2.0  # seconds
_REJECTED_LOGIN = ("28P01", "28000")  # SQLSTATEs: wrong password, and no such role or no permission to log in
_LOGIN = ("user", "password")
C = TypeVar("C", bound=Connection)


class _ConnectingWrapper(postgresql.DatabaseWrapper):
    """Opens connections, which django-prometheus' wrapper counts."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        # Undocumented: Django's method, which this one replaces, sets it.
        self.isolation_level = IsolationLevel.READ_COMMITTED
        connection = self._log_in(Connection.connect, conn_params)
        _OPEN.inc()
        return connection

    def _log_in(self, connect: Callable[..., C], params: dict[str, Any]) -> C:
        """Return `connect(**params)`. If the login is rejected and the password has a new value, try that once."""
        try:
            return connect(**params)
        except psycopg.OperationalError as error:
            if error.sqlstate not in _REJECTED_LOGIN:
                raise
            secret_files.reload_after_rejection()
            current = self.get_connection_params()
            new = {name: current[name] for name in _LOGIN if name in current}
            if new == {name: params[name] for name in _LOGIN if name in params}:
                raise
        return connect(**params | new)


class DatabaseWrapper(prometheus.DatabaseWrapper, _ConnectingWrapper):  # type: ignore[misc]  # the first has no types
    _in_use = False

    def connect(self) -> None:
        """Connect, or close the connection if that fails halfway.

        Undocumented: Django sets `self.connection` before it sets autocommit on it. After an exception in between,
        Django would assume autocommit while psycopg has it off, so all later writes would be acknowledged but never
        committed.
        """
        self._start_use()
        try:
            super().connect()
        except BaseException:
            self.close()
            raise

    def init_connection_state(self) -> None:
        """Set DateStyle, because psycopg parses only ISO. Undocumented: Django calls this for every new connection.

        The server reports DateStyle when it connects, so the statement is sent only if it is needed. PgBouncer tracks
        DateStyle for each of its clients. Other settings would leak to other clients. Some poolers report none; then
        psycopg assumes ISO.
        """
        super().init_connection_state()
        date_style = self.connection and self.connection.info.parameter_status("DateStyle")
        if self.connection and date_style and not date_style.startswith("ISO"):
            with self.connection.cursor() as cursor:
                cursor.execute("SET DateStyle TO ISO")

    def _close(self) -> None:  # private: unlike `close`, Django calls it only if there is a connection
        _OPEN.dec()
        super()._close()

    def close_if_health_check_failed(self) -> None:
        """Mark the connection as in use. Undocumented: Django calls this before each use."""
        self._start_use()
        super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Mark the connection as unused. Undocumented: Django calls this before and after each request."""
        if self._in_use:
            self._in_use = False
            _IN_USE.dec()
        super().close_if_unusable_or_obsolete()

    def is_usable(self) -> bool:
        """Return whether the connection works and leads to a primary. A demoted primary would reject every write."""
        if self.connection is None:
            return False
        seconds = min(_HEALTH_CHECK_TIMEOUT, request_time_left() / 2)  # the other half is for reconnecting
        try:
            with self.connection.time_limit(seconds):
                return bool(self.connection.leads_to_primary())
        except self.Database.Error:
            return False

    def open_probe(self, seconds: float) -> ProbeConnection:
        """Return a separate connection with the ORM's parameters. Connecting and each call may take `seconds`."""
        params = self.get_connection_params()
        for orm_parameter in ("cursor_factory", "context", "prepare_threshold"):
            params.pop(orm_parameter, None)
        name = params.get("application_name", settings.SERVICE)
        params |= {"connect_timeout": seconds, "application_name": f"{name} readiness"}
        connection = self._log_in(ProbeConnection.connect, params | {"autocommit": True})
        connection.timeout = seconds
        return connection

    def _start_use(self) -> None:
        if self._in_use:
            return
        if not circuit_breaker.allows(self._probe, request_time_left()):
            raise OperationalError("PostgreSQL is not responding. Retry in a few seconds.") from NoResponse()
        self._in_use = True
        _IN_USE.inc()

    def _probe(self) -> None:
        connection = self.open_probe(_PROBE_CONNECT_TIMEOUT)
        try:
            connection.check_writable(_PROBE_TIMEOUT)
        finally:
            connection.close()
