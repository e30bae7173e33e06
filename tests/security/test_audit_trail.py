"""Attack the audit trail as the application's role and as the owner of the tables."""

import io
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlparse
from django.core.management import call_command

from core.audit_integrity import find_problems
from core.audit_policy import APPEND_ONLY, AUDITED, NOT_AUDITED, REVOKED
from core.database_roles import APPLICATION_ROLE, OWNER_ROLE
from tests.docs.markdown import ROOT
from tests.security.databases import Connection, cloned, connect
from tests.support.plugin import Servers
from tests.support.polling import NOISE, ends_within

TYPES = {
    "uuid": ("gen_random_uuid()", "gen_random_uuid()"),
    "smallint": ("321", "322"),
    "integer": ("987654321", "987654322"),
    "bigint": ("987654321", "987654322"),
    "boolean": ("true", "false"),
    "timestamp with time zone": ("'2026-01-02'", "'2026-01-01'"),
    "jsonb": ("'{}'", """'{"changed": 1}'"""),
    "character varying": ("'x'", "'y'"),
    "character varying[]": ("'{x}'", "'{y}'"),
    "text": ("'x'", "'y'"),
    "inet": ("'192.0.2.1'", "'192.0.2.2'"),
}
CHANGED_TOO = {"is_active": ["logins_ended_at"], "is_staff": ["logins_ended_at"]}  # by the trigger end_logins
CHECKED = {
    "logins_ended_at": ("'9998-01-01'", "'9998-01-02'"),
    "mode": ("'text'", "'voice'"),
    "role": ("'user'", "'tool'"),
    "status": ("'queued'", "'failed'"),
}
USER = """
    INSERT INTO users (id, created_at, updated_at, email, password, is_superuser, full_name, specialty, is_active,
        is_staff)
    VALUES (gen_random_uuid(), now(), now(), 'ann@example.org', 'x', false, '', '', true, true)
"""
SESSION = """
    INSERT INTO sessions (id, created_at, updated_at, title, mode, is_archived, context, message_count, user_id)
    SELECT gen_random_uuid(), now(), now(), 'Patient', 'text', false, '{}', 0, id FROM users
"""


def count_events(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM audit_events").fetchone()[0])  # type: ignore[index]


def last_event(connection: Connection) -> Any:
    query = 'SELECT action, "table", changes FROM audit_events ORDER BY position DESC LIMIT 1'
    return connection.execute(query).fetchone()


def values(connection: Connection, table: str) -> dict[str, tuple[str, str]]:
    """Return two values, as SQL, for each column of a table."""
    query = (
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return {name: CHECKED.get(name) or TYPES[kind] for name, kind in connection.execute(query, (table,))}


@pytest.fixture(scope="module")
def shared_database(servers: Servers, template: str) -> Iterator[str]:
    with cloned(servers.postgres, template) as url:
        yield url


@pytest.fixture
def owner(shared_database: str) -> Iterator[Connection]:
    """Return a connection as the owner, in a transaction that is rolled back."""
    with closing(connect(shared_database)) as connection, connection.transaction(force_rollback=True):
        yield connection


@pytest.fixture
def application(owner: Connection) -> Connection:
    """Return a connection as the application's role, in a transaction that is rolled back."""
    become_application(owner)
    return owner


def become_application(connection: Connection) -> None:
    connection.execute(f"SET SESSION AUTHORIZATION {APPLICATION_ROLE}".encode())


# Every table and column


def test_every_table_is_audited_or_has_a_reason_why_not(owner: Connection) -> None:
    query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    kinds = (AUDITED, APPEND_ONLY, REVOKED, NOT_AUDITED)
    tables = {name for (name,) in owner.execute(query)}
    assert tables == {name for kind in kinds for name in kind}, "List the table in core/audit_policy.py."
    assert len(tables) == sum(len(kind) for kind in kinds)


@pytest.mark.parametrize("table", AUDITED)
def test_every_operation_and_column_is_recorded_even_as_a_replica(owner: Connection, table: str) -> None:
    owner.execute("SET session_replication_role = replica")
    audited, columns = AUDITED[table], values(owner, table)
    recorded = []
    owner.execute(f"DELETE FROM {table}".encode())
    before = count_events(owner)
    first = ", ".join(value for value, _ in columns.values())
    owner.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({first})".encode())
    recorded += ["INSERT"] * (count_events(owner) - before)
    for name, (_, second) in columns.items():
        before = count_events(owner)
        owner.execute(f"UPDATE {table} SET {name} = {second}".encode())
        is_recorded = count_events(owner) - before
        assert is_recorded == (name not in audited.ignored.split()), name
        if is_recorded:
            assert sorted(last_event(owner)[2]) == sorted([name, *CHANGED_TOO.get(name, [])])
    recorded += ["UPDATE"]
    before = count_events(owner)
    owner.execute(f"DELETE FROM {table}".encode())
    recorded += ["DELETE"] * (count_events(owner) - before)
    assert tuple(recorded) == audited.operations


def test_every_trigger_is_always_enabled(owner: Connection) -> None:
    query = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'A'"
    assert owner.execute(query).fetchall() == []


@pytest.mark.parametrize("table", [*AUDITED, *APPEND_ONLY])
def test_truncate_is_refused_even_as_a_replica(owner: Connection, table: str) -> None:
    owner.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="TRUNCATE is not allowed"):
        owner.execute(f"TRUNCATE {table} CASCADE".encode())


def test_columns_that_digests_cover_are_never_null(owner: Connection) -> None:
    query = (
        "SELECT column_name FROM information_schema.columns WHERE is_nullable = 'YES'"
        " AND (table_name = 'audit_checkpoints' OR table_name = 'audit_events' AND column_name = 'position')"
    )
    assert owner.execute(query).fetchall() == []


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_statement_that_matches_no_row_is_allowed(owner: Connection, table: str) -> None:
    """`loaddata` needs this, because Django tries to update each row before it inserts it."""
    owner.execute(f"UPDATE {table} SET created_at = now() WHERE false; DELETE FROM {table} WHERE false".encode())


@pytest.mark.parametrize("kind", ["text", "json"])
def test_new_column_is_recorded_without_its_value(owner: Connection, kind: str) -> None:
    owner.execute(USER)
    owner.execute(SESSION)
    owner.execute("SET CONSTRAINTS ALL IMMEDIATE")
    owner.execute(f"ALTER TABLE sessions ADD COLUMN summary {kind}".encode())
    # As in an append, so that the change could hide behind the ignored columns.
    owner.execute("UPDATE sessions SET summary = '1', message_count = message_count + 1, updated_at = now()")
    assert last_event(owner) == ("change", "sessions", {"summary": [None, "●●●●●●"]})
    before = count_events(owner)
    owner.execute("UPDATE sessions SET message_count = message_count + 1, updated_at = clock_timestamp()")
    assert count_events(owner) == before


def test_renaming_a_permission_is_recorded(owner: Connection) -> None:
    """Renaming another permission to `view_phi` would grant it to the holders of that one."""
    owner.execute("UPDATE auth_permission SET codename = 'zz' WHERE codename = 'view_phi'")
    assert last_event(owner) == ("change", "auth_permission", {"codename": ["view_phi", "zz"]})
    owner.execute("UPDATE auth_permission SET codename = 'view_phi' WHERE codename = 'view_session'")
    assert last_event(owner)[2] == {"codename": ["view_session", "view_phi"]}
    owner.execute("UPDATE django_content_type SET model = 'zz' WHERE model = 'session' AND app_label = 'core'")
    assert last_event(owner)[2] == {"model": ["session", "zz"]}


# The application's role


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE auth_permission SET codename = 'view_phi' WHERE codename = 'view_session'",
        "UPDATE audit_checkpoints SET digest = ''",
        "DELETE FROM audit_checkpoints",
        "TRUNCATE audit_checkpoints",
        "UPDATE audit_events SET position = 0",
        "ALTER TABLE audit_events ALTER COLUMN position DROP DEFAULT",
        "SELECT setval('audit_events_position', 1)",
        "DROP TRIGGER audit_update ON sessions",
        "ALTER TABLE users DISABLE TRIGGER audit",
        "SET session_replication_role = replica",
    ],
)
def test_application_cannot_bypass_the_trail(application: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        application.execute(statement.encode())


# What the server notices


def test_nothing_is_wrong_with_a_migrated_database(application: Connection) -> None:
    assert find_problems(application) == {}
    with ends_within(0.5, noise=NOISE / 4):
        find_problems(application)


def test_nothing_is_expected_before_the_migrations(owner: Connection) -> None:
    owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert "audit_trigger_missing" not in find_problems(owner)


SILENT = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
SABOTAGE = {
    "ALTER TABLE users DISABLE TRIGGER audit": "INSERT of users",
    "ALTER TABLE sessions ENABLE TRIGGER audit_update": "UPDATE of sessions",
    "ALTER TABLE messages ENABLE REPLICA TRIGGER audit": "UPDATE of messages",
    "DROP TRIGGER audit ON auth_permission": "INSERT of auth_permission",
    "DROP TRIGGER audit_is_not_passed ON messages": "TRUNCATE of messages",
    "ALTER TABLE audit_events DISABLE TRIGGER audit_is_kept": "UPDATE of audit_events",
    "DROP TABLE audit_checkpoints": "UPDATE of audit_checkpoints",
    f"CREATE OR REPLACE FUNCTION audit_row() {SILENT}": "function audit_row",
    f"CREATE OR REPLACE FUNCTION audit_is_kept() {SILENT}": "function audit_is_kept",
    "ALTER FUNCTION audit_row() SET search_path = elsewhere": "function audit_row",
    "CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW WHEN (false) EXECUTE"
    " FUNCTION audit_row('id', 'id', ''); ALTER TABLE users ENABLE ALWAYS TRIGGER audit": "INSERT of users",
    "CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE"
    " FUNCTION audit_row('id', 'id', 'is_superuser'); ALTER TABLE users ENABLE ALWAYS TRIGGER audit": "INSERT of users",
    "CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OF email OR DELETE ON users FOR EACH ROW EXECUTE"
    " FUNCTION audit_row('id', 'id', ''); ALTER TABLE users ENABLE ALWAYS TRIGGER audit": "INSERT of users",
    "DROP TRIGGER audit_is_not_passed ON users; CREATE TRIGGER refuse BEFORE DELETE ON users FOR EACH ROW EXECUTE"
    " FUNCTION audit_is_not_passed(); ALTER TABLE users ENABLE ALWAYS TRIGGER refuse": "TRUNCATE of users",
    "CREATE RULE nothing AS ON INSERT TO audit_events DO INSTEAD NOTHING": "rules of audit_events",
    f"CREATE FUNCTION drop_it() {SILENT}; CREATE TRIGGER drop_it BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE"
    " FUNCTION drop_it()": "an unknown trigger on audit_events",
}


@pytest.mark.parametrize("statement", SABOTAGE)
def test_sabotage_is_reported(owner: Connection, statement: str) -> None:
    owner.execute(statement.encode())
    become_application(owner)
    problem = find_problems(owner)["audit_trigger_missing"]
    assert SABOTAGE[statement] in problem
    assert "docs/RUNBOOK.md" in problem


def reported_faults(owner: Connection, statement: str) -> str:
    """Return what the application reports after the statement, which is rolled back."""
    with owner.transaction(force_rollback=True):
        owner.execute(statement.encode())
        become_application(owner)
        return find_problems(owner).get("audit_trigger_missing", "")


def test_every_disabled_trigger_and_changed_function_is_reported(owner: Connection) -> None:
    query = (
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE tgname IN ('audit', 'audit_update', 'audit_is_kept', 'audit_is_not_passed', 'audit_checkpoint_follows')"
    )
    triggers = owner.execute(query).fetchall()
    assert len(triggers) == 2 * len(AUDITED) + 1 + 2 * len(APPEND_ONLY) + 1
    for table, name, definition in triggers:
        operations = definition.split(" ON ")[0].split(" AFTER ")[-1].split(" BEFORE ")[-1].split(" OR ")
        faults = reported_faults(owner, f"ALTER TABLE {table} DISABLE TRIGGER {name}")
        for operation in operations:
            assert f"{operation} of {table}" in faults
        assert "more." not in faults
    functions = owner.execute("SELECT proname, oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'audit%'")
    for name, signature in functions.fetchall():
        assert f"function {name}" in reported_faults(owner, f"ALTER FUNCTION {signature} RENAME TO other"), name


def test_removal_of_all_functions_is_reported(owner: Connection) -> None:
    functions = owner.execute(
        "SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchone()
    assert functions
    faults = reported_faults(owner, f"DROP FUNCTION {functions[0]} CASCADE")
    assert "function audit_row, function audit_changes, function audit_is_kept" in faults


def runbook_migrations() -> list[str]:
    """Return the numbers of the migrations whose statements restore the triggers, as the runbook lists them."""
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    return re.findall(r"`(\d{4})`", runbook.split("`manage.py sqlmigrate core NUMBER`")[1].split("order.")[0])


@pytest.mark.django_db
def test_triggers_can_be_restored_as_the_runbook_says(owner: Connection) -> None:
    functions = owner.execute(
        "SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc WHERE prorettype = 'trigger'::regtype"
        " AND pronamespace = 'public'::regnamespace"
    ).fetchone()
    assert functions
    owner.execute(f"DROP FUNCTION {functions[0]}, audit_changes CASCADE".encode())
    for number in runbook_migrations():
        output = io.StringIO()
        call_command("sqlmigrate", "core", number, stdout=output, no_color=True)
        for statement in sqlparse.split(sqlparse.format(output.getvalue(), strip_comments=True)):
            if re.search("TRIGGER|FUNCTION", statement):
                owner.execute(statement.encode())
    become_application(owner)
    assert find_problems(owner) == {}


def test_at_most_five_faults_are_listed(owner: Connection) -> None:
    five = reported_faults(
        owner, "DROP TRIGGER audit_is_not_passed ON messages; ALTER TABLE users DISABLE TRIGGER USER"
    )
    assert five.count(" of ") == 5 + 1  # "triggers of the audit trail"
    assert "TRUNCATE of messages. Run migrate" in five
    seven = reported_faults(owner, "ALTER TABLE users DISABLE TRIGGER USER; ALTER TABLE messages DISABLE TRIGGER USER")
    assert (
        "INSERT of users, UPDATE of users, DELETE of users, UPDATE of messages, DELETE of messages and 2 more" in seven
    )


POWERS = {
    f"ALTER ROLE {APPLICATION_ROLE} SUPERUSER": "it is a superuser",
    f"ALTER TABLE audit_events OWNER TO {APPLICATION_ROLE}": "because it owns audit_events or is a member of the role "
    "that does. Connect",
    f"ALTER TABLE users OWNER TO {APPLICATION_ROLE}": "it owns users",
    f"GRANT {OWNER_ROLE} TO {APPLICATION_ROLE}": "is a member of the role that does",
    f"GRANT DELETE ON audit_events TO {APPLICATION_ROLE}": "it may change audit_events",
    f"GRANT UPDATE (changes) ON audit_events TO {APPLICATION_ROLE}": "it may change audit_events",
    f"GRANT TRUNCATE ON audit_checkpoints TO {APPLICATION_ROLE}": "it may change audit_checkpoints",
    f"GRANT SET ON PARAMETER session_replication_role TO {APPLICATION_ROLE}": "may set session_replication_role",
}


@pytest.mark.parametrize("statement", POWERS)
def test_too_powerful_role_is_reported(owner: Connection, statement: str) -> None:
    owner.execute(statement.encode())
    become_application(owner)
    problems = find_problems(owner)
    assert set(problems) == {"audit_role_too_powerful"}
    assert POWERS[statement] in problems["audit_role_too_powerful"]
    assert APPLICATION_ROLE in problems["audit_role_too_powerful"]
