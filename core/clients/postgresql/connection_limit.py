"""What limits the connections to PostgreSQL: their number, and the validity of the role's password."""

from typing import Any, NamedTuple

import psycopg
from django.conf import settings
from psycopg.rows import namedtuple_row

# Connections of a worker besides one per thread: those of the checks `postgres` and `migrations`, and while PostgreSQL
# does not respond, one of the circuit breaker.
_EXTRA_CONNECTIONS = 3
# A worker for jobs: four threads, housekeeping, three for scheduled jobs (checkpoints of the audit trail take two), and
# one of the circuit breaker. It is not compared with the limits, because it may run on another machine.
CONNECTIONS_OF_WORKER = 4 + 1 + 3 + 1

_MIN_PASSWORD_DAYS = 14

# Superusers are exempt from the limits of roles and databases. -1 means no limit.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-MAX-CONNECTIONS
# Of sessions of other roles only some columns are visible: background processes have no user, and all except parallel
# workers have no database. So parallel workers count too, although they do not count against max_connections.
_STATE = f"""
    SELECT pg_backend_pid() AS backend_pid,
        current_setting('max_connections')::int AS maximum,
        current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
        (SELECT count(*)::int FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL) AS used,
        CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END AS role_limit,
        CASE WHEN rolsuper THEN -1 ELSE datconnlimit END AS database_limit,
        CASE WHEN rolvaliduntil < now() + interval '{_MIN_PASSWORD_DAYS} days'
            THEN to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') END AS password_expires_at,
        rolname::text AS role
    FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()
"""


class ConnectionUsage(NamedTuple):
    """The connections of all clients of a PostgreSQL server."""

    used: int
    reserved: int  # for superusers and the role pg_use_reserved_connections
    maximum: int  # with the reserved ones

    def __str__(self) -> str:
        return f"{self.used} of {self.maximum - self.reserved} connections"


def max_connections(workers: int, threads: int) -> int:
    """Return how many connections a server may have at the same time."""
    return workers * (threads + _EXTRA_CONNECTIONS)


def find_problems(connection: "psycopg.Connection[Any]") -> tuple[ConnectionUsage, dict[str, str]]:
    """Return how many connections are used, and these warnings:

    connection_limit   the server may open more connections than PostgreSQL accepts. Behind a pooler there is no such
                       warning, because the limits of the pooler count instead
    password_expires   PostgreSQL will soon refuse the password of the role (VALID UNTIL)
    """
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        state: Any = cursor.execute(_STATE.encode()).fetchone()
    problems = {}
    limit, name = min(
        (limit, name)
        for limit, name in (
            (state.maximum - state.reserved, "max_connections without the reserved ones"),
            (state.role_limit, "the role's CONNECTION LIMIT"),
            (state.database_limit, "the database's CONNECTION LIMIT"),
        )
        if limit >= 0
    )
    count = max_connections(settings.WEB_CONCURRENCY, settings.WEB_THREADS)
    is_pooled = state.backend_pid != connection.info.backend_pid  # a pooler sends its clients another number
    if count > limit and not is_pooled:
        problems["connection_limit"] = (
            f"This server may open {count} connections to PostgreSQL, which accepts {limit} ({name}). Lower "
            "WEB_CONCURRENCY or WEB_THREADS, raise the limit, or use PgBouncer."
        )
    if state.password_expires_at:
        problems["password_expires"] = (
            f"PostgreSQL refuses the password of the role {state.role} from {state.password_expires_at} UTC. Set a new "
            f"one with a later VALID UNTIL, or ALTER ROLE {state.role} VALID UNTIL 'infinity'."
        )
    return ConnectionUsage(state.used, state.reserved, state.maximum), problems
