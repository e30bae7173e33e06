"""Check that all migrations are applied, and that this code may run on them."""

from functools import cache
from typing import NamedTuple

import psycopg
from django.conf import settings
from django.db.migrations.loader import MigrationLoader
from packaging.version import Version

from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import ReadOnly
from core.schema_compatibility import COMMENT, oldest_version
from health.check_runner import CheckOutput
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed
from health.checks.persistent_connection import PersistentConnection
from health.checks.postgres import connect

MAX_LISTED = 3  # unapplied migrations named in the detail
_APPLIED = f"SELECT app, name, {COMMENT}, current_setting('transaction_read_only') FROM django_migrations"


@cache
def migrations_on_disk() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return each migration of this code with those that it replaces."""
    nodes = MigrationLoader(None).graph.nodes
    return {key: list(migration.replaces) for key, migration in nodes.items() if migration}


class _Applied(NamedTuple):
    migrations: set[tuple[str, str]]
    oldest_version: Version | None  # that may run on the database


def _query(connection: Connection, seconds: float) -> _Applied:
    with connection.time_limit(seconds):
        try:
            rows = connection.execute(_APPLIED.encode()).fetchall()
        except psycopg.errors.UndefinedTable:
            return _Applied(set(), None)
    if rows and rows[0][3] != "off":
        # The retry on a new connection finds the new primary after a failover.
        raise ReadOnly("the session is read-only")
    return _Applied({(app, name) for app, name, *_ in rows}, oldest_version(rows[0][2] if rows else None))


# The check `queue` uses it too, which saves a connection to PostgreSQL in each worker.
connection = PersistentConnection(connect)


def migrations_for(version: Version, seconds: float) -> CheckOutput:
    """Fail if the migrations do not allow this version of the server to run on the database."""
    _require(connection.run(_query, seconds), version)
    return CheckOutput(f"version {version} may run on this database")


def _require(applied: _Applied, version: Version) -> None:
    if applied.oldest_version and version < applied.oldest_version:
        detail = f"the database requires version {applied.oldest_version} or newer, and this is {version}"
        raise CheckFailed(failure_reasons.SCHEMA_TOO_NEW, detail)


def migrations(seconds: float) -> CheckOutput:
    """Fail if the database requires newer code, or lacks a migration of this code.

    Other migrations of newer code are ignored, because servers of the previous release run while a release is deployed.
    """
    known, found = migrations_on_disk(), connection.run(_query, seconds)
    _require(found, Version(settings.VERSION))
    applied = found.migrations
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
