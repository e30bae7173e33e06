"""Django's PostgreSQL backend as django-prometheus measures it, and how many connections there are.

A connection is in use from a request's first query, or its waiting for a connection, to the request's end: what a pool
would have lent to the request.
"""

from collections.abc import Callable
from typing import Any

from django.db import OperationalError
from django_prometheus.db.backends.postgresql import base

from core.metrics import DATABASE_CONNECTIONS

_OPEN = DATABASE_CONNECTIONS.labels("open")
_IN_USE = DATABASE_CONNECTIONS.labels("in_use")


# Whether the database is known to hang. A server sets it (voiceassist.gunicorn): a request that asks a frozen
# database holds its thread until that thaws, and soon none would be left, for probes neither.
known_to_hang: Callable[[], bool] | None = None


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]  # django-prometheus has no types
    _in_use = False

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        _OPEN.inc()
        return connection

    def _close(self) -> None:
        _OPEN.dec()
        super()._close()

    def close_if_health_check_failed(self) -> None:
        """Is called before each use."""
        if not self._in_use:
            if known_to_hang and known_to_hang():
                raise OperationalError("PostgreSQL does not answer readiness: it is not asked.")
            self._in_use = True
            _IN_USE.inc()
        super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Is called before and after each request."""
        if self._in_use:
            self._in_use = False
            _IN_USE.dec()
        super().close_if_unusable_or_obsolete()
