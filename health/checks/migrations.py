"""Check that all migrations are applied."""

from functools import cache

import psycopg
from django.db.migrations.loader import MigrationLoader

from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import ReadOnly
from health.check_runner import CheckOutput
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed
from health.checks.persistent_connection import PersistentConnection
from health.checks.postgres import connect

MAX_LISTED = 3  # unapplied migrations named in the detail


@cache
def migrations_on_disk() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return each migration of this code with those that it replaces."""
    nodes = MigrationLoader(None).graph.nodes
    return {key: list(migration.replaces) for key, migration in nodes.items() if migration}


def _query(connection: Connection, seconds: float) -> set[tuple[str, str]]:
    with connection.time_limit(seconds):
        if connection.is_read_only():
            # The retry on a new connection finds the new primary after a failover.
            raise ReadOnly("the session is read-only")
        try:
            return set(connection.execute("SELECT app, name FROM django_migrations"))
        except psycopg.errors.UndefinedTable:
            return set()


# The check `queue` uses it too, which saves a connection to PostgreSQL in each worker.
connection = PersistentConnection(connect)


def migrations(seconds: float) -> CheckOutput:
    """Fail if a migration of this code is unapplied. Applied migrations of newer code are ignored."""
    known, applied = migrations_on_disk(), connection.run(_query, seconds)
    pending = sorted(
        f"{app}.{name}"
        for (app, name), replaces in known.items()
        if (app, name) not in applied and not (replaces and applied.issuperset(replaces))
    )
    if pending:
        more = f" and {len(pending) - MAX_LISTED} more" if len(pending) > MAX_LISTED else ""
        detail = f"unapplied: {', '.join(pending[:MAX_LISTED])}{more}"
        raise CheckFailed(failure_reasons.MIGRATIONS_PENDING, detail)
    return CheckOutput(f"{len(known)} applied")
