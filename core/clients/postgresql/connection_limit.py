"""Compare the connections that the server may open to PostgreSQL with those that PostgreSQL accepts."""

from typing import Any

import psycopg
from django.conf import settings

# Connections of a worker besides one per thread: those of the checks `postgres` and `migrations`, and while PostgreSQL
# does not respond, one of the circuit breaker.
_EXTRA_CONNECTIONS = 3
# A worker for jobs: one per thread, one of the main thread, one of the task that writes checkpoints of the audit trail,
# and one of the circuit breaker. It is not compared with the limits, because it may run on another machine.
CONNECTIONS_OF_WORKER = 4 + 3

# Superusers are exempt from the limits of roles and databases. -1 means no limit.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-MAX-CONNECTIONS
_LIMITS = """
    SELECT pg_backend_pid(),
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0),
           CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END,
           CASE WHEN rolsuper THEN -1 ELSE datconnlimit END
    FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()
"""
_NAMES = (
    "max_connections without the reserved ones",
    "the role's CONNECTION LIMIT",
    "the database's CONNECTION LIMIT",
)


def max_connections(workers: int, threads: int) -> int:
    """Return how many connections a server may have at the same time."""
    return workers * (threads + _EXTRA_CONNECTIONS)


def find_problems(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    """Return the warning `connection_limit` if the server may open more connections than PostgreSQL accepts.

    Behind a pooler there is none, because the limits of the pooler count instead.
    """
    row = connection.execute(_LIMITS).fetchone()
    if row is None or row[0] != connection.info.backend_pid:  # a pooler sends its clients another number
        return {}
    limit, name = min((limit, name) for limit, name in zip(row[1:], _NAMES, strict=True) if limit >= 0)
    count = max_connections(settings.WEB_CONCURRENCY, settings.WEB_THREADS)
    if count <= limit:
        return {}
    return {
        "connection_limit": f"This server may open {count} connections to PostgreSQL, which accepts {limit} ({name}). "
        "Lower WEB_CONCURRENCY or WEB_THREADS, raise the limit, or use PgBouncer."
    }
