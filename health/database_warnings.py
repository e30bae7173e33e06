"""Warnings about the database server, for problems that do not make the application unready, and its connections.

After a success, the check `postgres` refreshes them on its own connection. `/ready` does not report them; the log,
`checkdeps`, the status page and the metric `voiceassist_database_warning` do.

They are refreshed together with the metrics of the backups, which are in the database too.

A source is a function `find_problems(connection)`. It returns a dict of kinds and messages. A message describes what
is wrong and what to do.
"""

import time
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from core import audit_integrity
from core.clients.outages import is_outage
from core.clients.postgresql import connection_limit, server_log
from core.clients.postgresql.connection import MIN_TIMEOUT, Connection
from core.clients.postgresql.connection_limit import ConnectionUsage
from health import backups, metrics

log = structlog.stdlib.get_logger("voiceassist.database")

REFRESH_INTERVAL = 60.0  # seconds

current: dict[str, str] = {}  # messages by kind
connection_usage: ConnectionUsage | None = None  # as of the last refresh
_next_refresh = 0.0  # time.monotonic()
_logged: set[str] = set()


def _find_connection_problems(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    global connection_usage
    connection_usage, problems = connection_limit.find_problems(connection)
    return problems


SOURCES: tuple[Callable[["psycopg.Connection[Any]"], dict[str, str]], ...] = (
    server_log.find_problems,
    _find_connection_problems,
    audit_integrity.find_problems,
)


def refresh(connection: Connection, seconds: float) -> None:
    """Query all sources again if the last refresh is REFRESH_INTERVAL ago. Take at most about `seconds`. Never raise.

    After a failure the warnings stay as they were, because they are no reason to be unready.
    """
    global current, _next_refresh
    if time.monotonic() < _next_refresh:
        return
    _next_refresh = time.monotonic() + REFRESH_INTERVAL
    deadline = time.monotonic() + seconds
    found: dict[str, str] = {}
    try:
        for find_problems in SOURCES:
            with connection.time_limit(max(MIN_TIMEOUT, deadline - time.monotonic())):
                found |= find_problems(connection)
        with connection.time_limit(max(MIN_TIMEOUT, deadline - time.monotonic())):
            backups.measure(connection)
    except Exception as error:
        details = {"reason": type(error).__name__} if is_outage(error) else {"exc_info": True}
        log.error("The warnings about the database could not be refreshed", **details)
    else:
        current = found


def observe() -> None:
    """Measure the current warnings, and log each one that was not there the last time."""
    global _logged
    found = current
    metrics.measure_database_warnings(found)
    if connection_usage:
        metrics.measure_server_connections(connection_usage._asdict())
    for kind, message in found.items():
        if kind not in _logged:
            log.warning(message, kind=kind)
    _logged = set(found)
