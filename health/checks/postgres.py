"""Is PostgreSQL there, does it let us in, and can it be read and written?"""

from typing import Any

import psycopg
from django.conf import settings
from django.db import connections
from psycopg import waiting
from psycopg.conninfo import make_conninfo

from health import reasons
from health.kept import Kept
from health.reasons import CheckFailed
from health.runner import Finding

_INTERVAL = 0.1  # seconds between two looks for Ctrl-C


class Connection(psycopg.Connection[Any]):
    """Bounds every question. psycopg bounds only the connecting, and a frozen server would hold a query for ever."""

    seconds: float | None = None

    def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, timeout=self.seconds if timeout is None else timeout)


def connect(seconds: float) -> Connection:
    """Connects as the ORM does, within `seconds`.

    `psycopg.connect` would wait two seconds at the least, by libpq's rule for `connect_timeout`. This is the heart of
    it: the same generator, waited for as long as we have.
    """
    parameters = connections["default"].get_connection_params()
    for for_the_orm in ("cursor_factory", "context", "prepare_threshold", "connect_timeout"):
        parameters.pop(for_the_orm, None)
    conninfo = make_conninfo(**parameters, application_name=f"{settings.SERVICE} readiness")
    connection = waiting.wait_conn(Connection._connect_gen(conninfo), interval=_INTERVAL, timeout=seconds)
    connection.seconds = seconds
    connection.autocommit = True
    connection.prepare_threshold = None  # behind a pooler the next question is another connection's
    return connection


def _ask(connection: Connection, seconds: float) -> tuple[psycopg.ConnectionInfo, str]:
    connection.seconds = seconds
    row = connection.execute("SHOW transaction_read_only").fetchone()
    return connection.info, row[0] if row else ""


_kept = Kept(connect)


def where() -> str:
    """Returns where the settings say that it is."""
    parameters = connections["default"].get_connection_params()
    return _where(parameters.get("host") or "localhost", parameters.get("port") or 5432, parameters["dbname"])


def _where(host: str, port: object, database: str) -> str:
    return f"{host if host.startswith('/') else f'{host}:{port}'}/{database}"


def postgres(seconds: float) -> Finding:
    """Reads, and sees that it may write: a standby, or a primary set to read-only, is not ready."""
    info, read_only = _kept.ask(_ask, seconds)
    if read_only != "off":
        raise CheckFailed(reasons.NOT_READY, "it is read-only: a standby, or set so")
    # 180001 is 18.1: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQSERVERVERSION
    version = f"{info.server_version // 10000}.{info.server_version % 10000}"
    return Finding(_where(info.host, info.port, info.dbname), version)
