"""PHI must not outlive its rows in PostgreSQL's statistics, which every role that may read the table can read."""

from importlib import import_module

from core import phi
from core.models import Message, Session
from tests.security.databases import Connection, manage
from tests.security.test_audit_trail import USER
from tests.support.dependency_servers import as_owner

CANARY = "PHISTAT patient"
SESSIONS = f"""
    INSERT INTO sessions (id, created_at, updated_at, title, mode, is_archived, context, message_count, user_id)
    SELECT gen_random_uuid(), now(), now(), '{CANARY}', 'text', false, '{{"name": "{CANARY}"}}', 0, id
    FROM users, generate_series(1, 50)
"""
MESSAGES = f"""
    INSERT INTO messages (id, created_at, updated_at, session_id, role, content, audio_url, model, tool_calls,
        tool_results, metadata, contains_phi)
    SELECT gen_random_uuid(), now(), now(), id, 'user', '{CANARY}', '{CANARY}', '', '"{CANARY}"', '"{CANARY}"',
        '{{"name": "{CANARY}"}}', true
    FROM sessions
"""
STATISTICS = f"""
    SELECT attname FROM pg_stats WHERE tablename IN ('sessions', 'messages')
    AND (most_common_vals::text LIKE '%{CANARY}%' OR histogram_bounds::text LIKE '%{CANARY}%'
        OR most_common_elems::text LIKE '%{CANARY}%') ORDER BY attname
"""


def add_phi(connection: Connection) -> None:
    for statement in (USER, SESSIONS, MESSAGES, "ANALYZE"):
        connection.execute(statement.encode())


def columns_with_phi(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute(STATISTICS.encode())]


def test_no_statistics_are_collected_of_the_columns_that_are_declared_as_phi(owner: Connection) -> None:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attstattarget = 0"
    for model in (Session, Message):
        found = {name for (name,) in owner.execute(query, (model._meta.db_table,))}
        assert found == set(phi.columns(model, "PHI")), "Set the statistics target of the column to 0 in a migration."
    extended = owner.execute("SELECT stxname FROM pg_statistic_ext").fetchall()
    expressions = owner.execute(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indexprs IS NOT NULL"
        " AND indrelid IN ('sessions'::regclass, 'messages'::regclass)"
    ).fetchall()
    assert (extended, expressions) == ([], [])
    add_phi(owner)
    assert columns_with_phi(owner) == []


def test_migration_deletes_what_was_collected(database: str, owner: Connection) -> None:
    assert manage("migrate", "core", "0006", url=as_owner(database)).returncode == 0
    add_phi(owner)
    assert columns_with_phi(owner) == sorted(phi.columns(Session, "PHI") + phi.columns(Message, "PHI"))
    owner.execute("DELETE FROM messages")
    owner.execute("DELETE FROM sessions")
    assert manage("migrate", "--verbosity", "0", url=as_owner(database)).returncode == 0
    assert columns_with_phi(owner) == []


def test_statement_for_older_servers_deletes_what_was_collected(database: str, owner: Connection) -> None:
    """The statement for PostgreSQL before 18 also works in 18, the only version that the tests have."""
    assert manage("migrate", "core", "0006", url=as_owner(database)).returncode == 0
    add_phi(owner)
    assert columns_with_phi(owner)
    migration = import_module("core.migrations.0007_audit_every_table")
    with owner.transaction(force_rollback=True):
        owner.execute("DROP TRIGGER audit ON sessions")  # as the migration does
        for table, columns in migration.PHI.items():
            for column in columns:
                statement = migration.DELETE_STATISTICS.format(table=table, column=column)
                assert "180000" in statement
                owner.execute(statement.replace("180000", "990000").encode())
        assert columns_with_phi(owner) == []
    assert manage("migrate", "--verbosity", "0", url=as_owner(database)).returncode == 0
