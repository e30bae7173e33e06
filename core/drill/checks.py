"""The checks of a restored database. Each returns what it found, or raises DrillError."""

from collections.abc import Callable
from typing import Any

import psycopg

from core import audit_archive, audit_integrity, audit_verification
from core.database_roles import APPLICATION_ROLE
from core.drill import throwaway
from core.drill.manifest import DrillError, Manifest, known_migrations
from core.drill.throwaway import Server

Connection = psycopg.Connection[Any]
# Migration 0007 checks only new events, because reading the stored ones would block requests.
_NOT_VALIDATED = {"audit_events_created_at"}
_TRAIL_CHANGES = (
    "UPDATE audit_events SET actor_email = ''",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "UPDATE audit_checkpoints SET events = events + 1",
    "DELETE FROM audit_checkpoints",
    "TRUNCATE audit_checkpoints",
)
_EVENT = b"""
    INSERT INTO audit_events (id, created_at, action, "table", object_id, actor_email, trace_id, changes)
    VALUES (gen_random_uuid(), now(), 'create', '', '', '', '', '{}')
"""
_SCHEMA_CHANGES = (
    "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    "DROP TABLE audit_events",
    "ALTER TABLE users DISABLE TRIGGER ALL",
)


def row_counts(server: Server, manifest: Manifest) -> str:
    """Compare the number of rows of each table with the manifest."""
    with server.connect() as connection:
        for table, expected in manifest.row_counts.items():
            try:
                found = _fetch(connection, f"SELECT count(*) FROM {table}")
            except psycopg.errors.UndefinedTable:
                raise DrillError(f"The table {table} is missing.") from None
            if found != expected:
                raise DrillError(f"The table {table} has {found:,} rows, and the manifest says {expected:,}.")
    return f"{sum(manifest.row_counts.values()):,} rows in {len(manifest.row_counts)} tables"


def migrations(server: Server, manifest: Manifest) -> str:
    """Require that all migrations of this code are applied, and no others, as `migrate --check` does."""
    with server.connect() as connection:
        rows = connection.execute("SELECT app || '.' || name FROM django_migrations").fetchall()
    applied = {name for (name,) in rows}
    if pending := known_migrations() - applied:
        raise DrillError(
            f"{len(pending)} migrations of this code are not in the backup, such as {min(pending)}. Run the drill with "
            f"the code of version {manifest.product_version}."
        )
    if unknown := applied - known_migrations():
        raise DrillError(f"This code does not have the migration {min(unknown)}. Run the drill with newer code.")
    return f"{len(applied)} applied, none pending"


def data_structures(server: Server, manifest: Manifest) -> str:
    """Check tables and indexes with pg_amcheck. If the extension is not installed, read every row instead."""
    options = {"PGHOST": str(server.socket), "PGUSER": manifest.superuser}
    with server.connect() as connection:
        has_amcheck = _fetch(connection, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')")
    if has_amcheck:
        throwaway.run("pg_amcheck", "--install-missing", "--heapallindexed", manifest.database, **options)
        return "pg_amcheck found nothing"
    throwaway.run("pg_dump", "--file=/dev/null", manifest.database, **options)
    return "every row was read; pg_amcheck was skipped, because this PostgreSQL lacks the extension amcheck"


def constraints(server: Server, manifest: Manifest) -> str:
    """Let PostgreSQL check every foreign key and CHECK constraint again, by adding it a second time."""
    query = """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
        WHERE contype IN ('f', 'c') AND conrelid <> 0 AND connamespace = quote_ident(current_schema())::regnamespace"""
    invalid_indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT (indisvalid AND indisready) LIMIT 1"
    with server.connect() as connection:
        if invalid := _fetch(connection, invalid_indexes):
            raise DrillError(f"The index {invalid} is invalid. Run migrate, which builds it again.")
        rows = connection.execute(query.encode()).fetchall()
        for table, name, definition, is_validated in rows:
            if name in _NOT_VALIDATED:
                continue
            if not is_validated:
                raise DrillError(f"The constraint {name} of {table} is not validated. Validate it in the database.")
            with connection.transaction(force_rollback=True):
                try:
                    connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT drill {definition}".encode())
                except psycopg.IntegrityError:
                    raise DrillError(f"Rows of {table} violate the constraint {name}.") from None
    return f"{len(rows)} hold"


def audit_trail(server: Server, manifest: Manifest) -> str:
    """Check the triggers, the role, all checkpoints, and that the manifest's last event and checkpoint exist."""
    try:
        with server.connect(user=APPLICATION_ROLE) as connection:
            problems = audit_integrity.find_problems(connection)
    except psycopg.OperationalError:
        raise DrillError(f"The role {APPLICATION_ROLE} can't log in. Run roles.sql before the restore.") from None
    if problems:
        raise DrillError(" ".join(problems.values()))
    checkpoint, event = manifest.last_audit_checkpoint, manifest.last_audit_event
    with server.connect() as connection:
        found = "SELECT EXISTS (SELECT FROM audit_events WHERE position = %s AND id = %s)"
        if event and not _fetch(connection, found, event["position"], event["id"]):
            raise DrillError(f"The last audit event of the manifest, {event['id']}, is missing.")
        digests = [checkpoint["digest"]] if checkpoint else []
        archived = audit_archive.last_recorded(connection)  # its events may have been removed since
        *_, result = audit_verification.verify(connection, {}, digests, archived=archived)
    if result.problems:
        raise DrillError(f"The audit trail was changed. {result.problems[0]}")
    found = f"{result.events:,} events match {result.checkpoints:,} checkpoints, {result.uncovered:,} are newer"
    return f"{found}, {result.archived:,} were not read, because they are archived" if result.archived else found


def append_only(server: Server, manifest: Manifest) -> str:
    """Try to change the trail as superuser, and more as the application. Everything is rolled back."""
    with server.connect() as connection:
        _require_refusal(connection, _TRAIL_CHANGES, "a superuser")
    with server.connect(user=APPLICATION_ROLE) as connection:
        _require_refusal(connection, (*_TRAIL_CHANGES, *_SCHEMA_CHANGES), APPLICATION_ROLE)
    return "changes were refused, to a superuser and to the application's role"


def _require_refusal(connection: Connection, statements: tuple[str, ...], role: str) -> None:
    for statement in statements:
        with connection.transaction(force_rollback=True):
            # The triggers work by row, so there has to be one.
            connection.execute(_EVENT)
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            if not _fetch(connection, "SELECT EXISTS (SELECT FROM audit_checkpoints)") and "checkpoints" in statement:
                continue
        raise DrillError(f"The audit trail can be changed: {role} may run {statement}.")


def _fetch(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row and row[0]


CHECKS: tuple[tuple[str, Callable[[Server, Manifest], str]], ...] = (
    ("migrations", migrations),
    ("data structures", data_structures),
    ("constraints", constraints),
    ("audit trail", audit_trail),
    ("append-only", append_only),
)
