"""Compare the connections that the server may open to PostgreSQL with those that PostgreSQL accepts."""

from core.clients.postgresql.probe import ProbeConnection

# Connections of a worker besides one per thread: those of the checks `postgres` and `migrations`, and while PostgreSQL
# does not respond, one of the circuit breaker.
_EXTRA_CONNECTIONS = 3
_CONNECTIONS_OF_SERVER = 1  # of the worker that writes checkpoints of the audit trail

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
    return workers * (threads + _EXTRA_CONNECTIONS) + _CONNECTIONS_OF_SERVER


def find_limit(connection: ProbeConnection) -> tuple[int, str] | None:
    """Return the lowest limit and its name, or None behind a pooler, whose own limits count instead."""
    row = connection.execute(_LIMITS).fetchone()
    if row is None or row[0] != connection.info.backend_pid:  # a pooler sends its clients another number
        return None
    return min((limit, name) for limit, name in zip(row[1:], _NAMES, strict=True) if limit >= 0)
