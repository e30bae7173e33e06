"""Find settings of a server, database or role that the application can't work with and can't override.

The application overrides three others: DateStyle (`core.clients.postgresql.base`), and the isolation level and
`synchronous_commit` (`options` in `voiceassist.settings`). They are checked here too where a pooler or the URL can undo
that. All other settings of PostgreSQL 18 were tried with unusual values, and none breaks the application.
docs/OPERATIONS.md lists what a database must have.
"""

from typing import Any

import psycopg

from core.database_roles import APPLICATION_ROLE, OWNER_ROLE

# `remote_write`, `local` and `off` acknowledge a commit before it is durable on the server and its synchronous standby.
_DURABLE = ("on", "remote_apply")
_SETTINGS = """
    SELECT current_setting('server_encoding'), current_schema(), current_setting('session_replication_role'),
        current_setting('default_transaction_isolation'), current_setting('synchronous_commit'),
        format('ALTER ROLE %I IN DATABASE %I SET', session_user, current_database())
"""
_MIGRATION_SETTINGS = """
    SELECT current_schema(), current_setting('transaction_read_only'),
        has_schema_privilege(current_schema(), 'CREATE'), current_user,
        (SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid
            WHERE pg_class.oid = to_regclass('django_migrations')),
        (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('django_migrations')
            AND NOT pg_has_role(relowner, 'USAGE')),
        format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user)
"""


def find_problem(connection: "psycopg.Connection[Any]") -> str | None:
    """Return why the application can't work with the settings of this database, and what to do, or None."""
    encoding, schema, replication_role, isolation, synchronous_commit, alter_role = _fetch(connection, _SETTINGS)
    if encoding != "UTF8":
        return (
            f"The encoding of the database is {encoding}, not UTF8. Create a database with ENCODING 'UTF8' and "
            "TEMPLATE template0, and restore the data into it."
        )
    if schema is None or schema.startswith("pg_"):  # pg_catalog, and the schema of temporary tables
        return (
            "search_path has no schema for tables, because none of its schemas exists and may be used by the role, or "
            "because pg_catalog comes first. Create a schema and grant USAGE on it, or correct search_path."
        )
    if replication_role == "replica":
        return (
            "session_replication_role is 'replica', which disables the audit trail and foreign keys. As superuser, run "
            f"{alter_role} session_replication_role = origin."
        )
    if isolation not in ("read committed", "read uncommitted"):
        return (
            f"default_transaction_isolation is {isolation!r}, so concurrent requests would fail. Run {alter_role} "
            "default_transaction_isolation = 'read committed'."
        )
    if synchronous_commit not in _DURABLE:
        return (
            f"synchronous_commit is {synchronous_commit!r}, so acknowledged messages could be lost. Run {alter_role} "
            "synchronous_commit = on, and remove it from the options in DATABASE_URL."
        )
    return None


def find_migration_problem(connection: "psycopg.Connection[Any]") -> str | None:
    """Return why `migrate` can't create tables in this database, and what to do, or None."""
    if problem := find_problem(connection):
        return problem
    schema, read_only, may_create, role, found_in, other_owner, grant = _fetch(connection, _MIGRATION_SETTINGS)
    if read_only == "on":
        return (
            "The database is read-only. Connect to the primary, or set default_transaction_read_only to off for the "
            "server, the database and the role."
        )
    if found_in is None and not may_create:
        if role == APPLICATION_ROLE:
            return f"The role {role} may not create tables. Run migrate with the DATABASE_URL of {OWNER_ROLE}."
        return f"The role may not create tables. As the owner of the database, run {grant}."
    if found_in not in (None, schema):
        return (
            f"search_path finds the table django_migrations in the schema {found_in}, but would create tables in "
            f"{schema}. Set search_path to only the schema of the application."
        )
    if other_owner:
        return (
            f"The tables belong to the role {other_owner}, and {role} may not change them. Run migrate with the "
            f"DATABASE_URL of {other_owner}."
        )
    return None


def _fetch(connection: "psycopg.Connection[Any]", query: str) -> Any:
    return connection.execute(query.encode()).fetchone()
