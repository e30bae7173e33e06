"""Has the database every migration of this code?"""

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


@cache
def _on_disk() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Returns each migration of the code with those that it replaces. The code of a process does not change."""
    nodes = MigrationLoader(None).graph.nodes
    return {key: list(migration.replaces) for key, migration in nodes.items() if migration}


def _ask(connection: Connection, seconds: float) -> set[tuple[str, str]]:
    with connection.time_limit(seconds):
        if connection.is_read_only():
            raise ReadOnly("the session is read-only")  # asked once more on a fresh connection, which finds the primary
        try:
            return set(connection.execute("SELECT app, name FROM django_migrations"))
        except psycopg.errors.UndefinedTable:
            return set()


_kept = PersistentConnection(connect)


def migrations(seconds: float) -> CheckOutput:
    """No migration of this code is unapplied. Ones that only newer code knows do no harm."""
    known, applied = _on_disk(), _kept.ask(_ask, seconds)
    pending = sorted(
        f"{app}.{name}"
        for (app, name), replaces in known.items()
        if (app, name) not in applied and not (replaces and applied.issuperset(replaces))
    )
    if pending:
        more = f" and {len(pending) - 3} more" if len(pending) > 3 else ""
        detail = f"unapplied: {', '.join(pending[:3])}{more}"
        raise CheckFailed(failure_reasons.MIGRATIONS_PENDING, detail)
    return CheckOutput(f"{len(known)} applied")
