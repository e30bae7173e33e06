"""Is PostgreSQL there, does it let us in, and can it be read and written?"""

import math
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections

from health import reasons
from health.kept import Kept
from health.reasons import CheckFailed
from health.runner import Finding


class Connection(psycopg.Connection[Any]):
    """psycopg bounds only the connecting. This bounds each question too: a frozen server would hold it for ever."""

    seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        return super().wait(gen, interval, timeout=self.seconds if timeout is None else timeout)


def connect(seconds: float) -> Connection:
    """Connects as the ORM does. libpq takes no less than two seconds for it; the runner's deadline is the outer one."""
    parameters = connections["default"].get_connection_params()
    for for_the_orm in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(for_the_orm, None)
    parameters["connect_timeout"] = max(2, math.ceil(seconds))
    parameters["application_name"] = f"{settings.SERVICE} readiness"
    return Connection.connect(**parameters, autocommit=True)


def _ask(connection: Connection, seconds: float) -> tuple[psycopg.ConnectionInfo, str]:
    connection.seconds = seconds
    row = connection.execute("SHOW transaction_read_only").fetchone()
    return connection.info, row[0] if row else ""


_kept = Kept(connect)


def postgres(seconds: float) -> Finding:
    """Reads, and sees that it may write: a standby, or a primary set to read-only, is not ready."""
    info, read_only = _kept.ask(_ask, seconds)
    if read_only != "off":
        raise CheckFailed(reasons.NOT_READY, "it is read-only: a standby, or set so")
    # 180001 is 18.1: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQSERVERVERSION
    version = f"{info.server_version // 10000}.{info.server_version % 10000}"
    host = info.host if info.host.startswith("/") else f"{info.host}:{info.port}"
    return Finding(f"{host}/{info.dbname}", version)
