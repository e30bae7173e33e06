"""The two roles of the database: the application's role can do its work, and nothing to the trail or the schema."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from core.database_roles import APPLICATION_ROLE, OWNER_ROLE, PRIVILEGES, privileges_on
from tests.core.management.test_migrate import TEST_SETTINGS, run_command, start_command
from tests.support.dependency_servers import PASSWORD, SUPERUSER, Postgres, as_application, as_owner, as_role
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.reveal import REASON
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

DATABASE = "two_roles"
EMAIL, LOGIN_PASSWORD = "ann@example.org", "correct horse battery"
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1"


def fetch(url: str, query: str, *parameters: object) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture(scope="module")
def url(servers: Servers) -> Iterator[str]:
    """Return the application's URL of a database that was set up as in production, with a superuser of the admin."""
    url = database_with_staff(servers.postgres, DATABASE, EMAIL, LOGIN_PASSWORD)
    servers.postgres.run_roles_file(DATABASE)
    yield url
    servers.postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


# What the application's role may do


def granted(url: str, table: str) -> frozenset[str]:
    query = "SELECT name FROM unnest(%s::text[]) AS name WHERE has_table_privilege(%s, %s, name)"
    return frozenset(name for (name,) in fetch(url, query, list(TABLE_PRIVILEGES), APPLICATION_ROLE, table))


def test_privileges_on_every_table_are_those_in_the_code(url: str) -> None:
    tables = [table for (table,) in fetch(url, TABLES)]
    assert set(PRIVILEGES) <= set(tables)
    assert {table: granted(url, table) for table in tables} == {table: privileges_on(table) for table in tables}


def test_owner_owns_everything_and_sequences_can_only_be_used(url: str) -> None:
    objects = "FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    functions = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert fetch(url, f"SELECT DISTINCT relowner::regrole::text {objects}") == [(OWNER_ROLE,)] == fetch(url, functions)
    query = f"""
        SELECT DISTINCT has_sequence_privilege(%s, oid, 'USAGE'), has_sequence_privilege(%s, oid, 'SELECT, UPDATE')
        {objects} AND relkind = 'S'"""
    assert fetch(url, query, APPLICATION_ROLE, APPLICATION_ROLE) == [(True, False)]


def test_roles_have_no_other_power(url: str) -> None:
    attributes = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin"
    query = f"SELECT {attributes} FROM pg_roles WHERE rolname = ANY(%s)"
    assert fetch(url, query, [OWNER_ROLE, APPLICATION_ROLE]) == [(False,) * 5 + (True,)] * 2
    assert fetch(url, "SELECT FROM pg_auth_members WHERE member = %s::regrole", APPLICATION_ROLE) == []
    database = "has_database_privilege(current_database(), 'CREATE, TEMPORARY')"
    assert fetch(url, f"SELECT {database}, has_schema_privilege('public', 'CREATE')") == [(False, False)]


ATTACKS = [
    # Change or remove events.
    "UPDATE audit_events SET actor_email = 'eve'",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "MERGE INTO audit_events USING users ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (id) DO UPDATE SET actor_email = 'eve'",
    "WITH gone AS (DELETE FROM audit_events RETURNING 1) SELECT * FROM gone",
    "SELECT id FROM audit_events FOR UPDATE",
    "BEGIN; LOCK TABLE audit_events IN EXCLUSIVE MODE",
    "DROP TABLE audit_events",
    "ALTER TABLE audit_events RENAME TO old_events",
    "CREATE RULE quiet AS ON INSERT TO audit_events DO INSTEAD NOTHING",
    "CREATE TRIGGER quiet BEFORE INSERT ON audit_events EXECUTE FUNCTION audit_is_kept()",
    "CREATE TABLE public.child () INHERITS (audit_events)",
    "ALTER TABLE audit_events OWNER TO voiceassist_app",
    # Change rows without an event.
    "ALTER TABLE users DISABLE TRIGGER audit",
    "ALTER TABLE users DISABLE TRIGGER ALL",
    "DROP TRIGGER audit ON sessions",
    "ALTER TABLE messages DROP COLUMN content",
    "TRUNCATE messages",
    "TRUNCATE users CASCADE",
    "SET session_replication_role = replica",
    "ALTER ROLE voiceassist_app SET session_replication_role = 'replica'",
    f"ALTER DATABASE {DATABASE} SET session_replication_role = 'replica'",
    "CREATE OR REPLACE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "DROP FUNCTION audit_row() CASCADE",
    # Catch events in something that comes first in the search path.
    "CREATE TEMPORARY TABLE audit_events (LIKE public.audit_events)",
    "CREATE SCHEMA other",
    "CREATE TABLE public.other ()",
    f'CREATE SCHEMA "{APPLICATION_ROLE}"',
    # Rename a permission to that of revealing PHI, or hide that a migration is missing.
    "UPDATE auth_permission SET codename = 'view_phi' WHERE codename = 'view_session'",
    "INSERT INTO auth_permission (name, codename, content_type_id) VALUES ('x', 'x', 1)",
    "DELETE FROM auth_permission",
    "UPDATE django_content_type SET model = 'message' WHERE model = 'session'",
    "INSERT INTO django_content_type (app_label, model) VALUES ('core', 'x')",
    "DELETE FROM django_content_type",
    "DELETE FROM django_migrations",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('core', '9999', now())",
    # Become somebody else, or leave the database.
    f"SET ROLE {OWNER_ROLE}",
    f"SET ROLE {SUPERUSER}",
    f"SET SESSION AUTHORIZATION {OWNER_ROLE}",
    f"GRANT {OWNER_ROLE} TO {APPLICATION_ROLE}",
    f"ALTER ROLE {APPLICATION_ROLE} SUPERUSER",
    f"ALTER ROLE {OWNER_ROLE} PASSWORD 'x'",
    "CREATE ROLE eve",
    "GRANT pg_write_all_data TO voiceassist_app",
    f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT ALL ON TABLES TO voiceassist_app",
    "SELECT setval('auth_group_id_seq', 1)",
    "COPY users TO PROGRAM 'cat'",
    "COPY users FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "ALTER SYSTEM SET log_statement = 'all'",
    "SELECT pg_reload_conf()",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_application_role_cannot_bypass_the_trail(url: str, attack: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(attack.encode())


def test_application_role_cannot_grant_itself_anything(url: str) -> None:
    """PostgreSQL only warns that nothing was granted."""
    for table in PRIVILEGES:
        for statement in (f"GRANT ALL ON {table} TO {APPLICATION_ROLE}", f"GRANT ALL ON {table} TO PUBLIC"):
            with psycopg.connect(url, autocommit=True) as connection:
                try:
                    connection.execute(statement.encode())
                except InsufficientPrivilege:
                    continue
        assert granted(url, table) == privileges_on(table)


def test_changes_by_the_application_role_are_recorded(url: str) -> None:
    count = "SELECT count(*) FROM audit_events"
    (before,) = fetch(url, count)[0]
    execute(url, "UPDATE users SET is_staff = NOT is_staff; UPDATE users SET is_staff = NOT is_staff")
    assert fetch(url, count) == [(before + 2,)]


def test_server_works_and_reveals_phi_as_the_application_role(url: str) -> None:
    (session,) = fetch(
        url,
        "INSERT INTO sessions (id, user_id, title, mode, is_archived, context, message_count, created_at, updated_at)"
        " SELECT gen_random_uuid(), id, 'canary', 'text', false, '{}', 0, now(), now() FROM users RETURNING id",
    )[0]
    with (
        VoiceAssistServer(DATABASE_URL=url, WEB_CONCURRENCY="1") as app,
        closing(app.log_in(EMAIL, LOGIN_PASSWORD)) as client,
    ):
        assert app.get("/ready")[0] == 200
        page = f"/admin/core/session/{session}/"
        assert client.get("/admin/core/session/").status_code == 200
        assert "canary" not in client.get(f"{page}change/").text
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert "canary" in client.post(f"{page}reveal/", data=form | REASON).text
        assert client.post(f"{page}delete/", data=form | {"post": "yes"}).status_code == 302
    events = fetch(url, "SELECT action, actor_email FROM audit_events WHERE object_id = %s ORDER BY id", str(session))
    assert events == [("create", ""), ("reveal", EMAIL), ("delete", EMAIL)]


# Setting up and migrating


@pytest.fixture
def copy(servers: Servers, url: str) -> Iterator[str]:
    """Return the superuser's URL of a copy of the database."""
    servers.postgres.execute(f"CREATE DATABASE copy TEMPLATE {DATABASE}")
    yield servers.postgres.url.replace("/tests", "/copy")
    servers.postgres.execute("DROP DATABASE copy WITH (FORCE)")


def test_migrate_as_the_application_role_names_the_owner(url: str) -> None:
    empty = url.replace(DATABASE, "tests")  # the tests migrate a database with another name
    for database in (empty, url):
        code, output, errors = run_command("migrate", database=database)
        assert (code, output) == (1, "")
        assert errors.startswith("CommandError: Nothing was changed")
        assert errors.endswith(f"Run migrate with the DATABASE_URL of {OWNER_ROLE}.\n")


def test_migrate_corrects_wrong_privileges_and_gives_those_of_a_new_table(copy: str) -> None:
    execute(copy, f"GRANT ALL ON audit_events TO {APPLICATION_ROLE}; REVOKE SELECT ON users FROM {APPLICATION_ROLE}")
    assert run_command("migrate", "--check", database=as_owner(copy))[0] == 0
    assert granted(copy, "audit_events") == frozenset(TABLE_PRIVILEGES)
    with start_command("migrate", database=as_owner(copy), settings=TEST_SETTINGS) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for table in ("audit_events", "users", "migrating_row"):
        assert granted(copy, table) == privileges_on(table)


def test_new_table_can_be_used_before_migrate_has_ended(copy: str) -> None:
    """A trigger may write to the new table while servers of the old release run."""
    execute(as_owner(copy), "CREATE TABLE early (id serial)")
    execute(as_application(copy), "INSERT INTO early DEFAULT VALUES")


def test_upgrade_of_a_database_that_belongs_to_the_superuser(servers: Servers, copy: str) -> None:
    """Until the release with the two roles, Compose's tables belonged to the superuser that created the cluster."""
    execute(
        copy,
        f"REASSIGN OWNED BY {OWNER_ROLE} TO {SUPERUSER};"
        "INSERT INTO auth_group (name) VALUES ('reviewers');"
        "CREATE VIEW names AS SELECT name FROM auth_group;"
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {APPLICATION_ROLE}",
    )
    for _ in range(2):
        servers.postgres.run_roles_file("copy")
    assert fetch(as_application(copy), "SELECT count(*) > 0 FROM django_migrations") == [(True,)]  # for checkdeps
    assert run_command("migrate", database=as_owner(copy))[0] == 0
    test_owner_owns_everything_and_sequences_can_only_be_used(copy)
    test_privileges_on_every_table_are_those_in_the_code(as_application(copy))
    assert ("reviewers",) in fetch(as_application(copy), "SELECT name FROM auth_group")


def test_upgrade_fails_no_request(servers: Servers, copy: str) -> None:
    """A request that locks two tables in the opposite order would be the one that fails, by deadlock."""
    execute(copy, f"REASSIGN OWNED BY {OWNER_ROLE} TO {SUPERUSER}")
    tables = "SELECT relname FROM pg_class WHERE relname IN ('users', 'messages') ORDER BY oid"
    (first,), (last,) = fetch(copy, tables)
    waiting = "SELECT FROM pg_stat_activity WHERE datname = 'copy' AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool, psycopg.connect(copy) as request:
        request.execute(f"LOCK TABLE {last} IN ROW EXCLUSIVE MODE".encode())
        upgrade = pool.submit(servers.postgres.run_roles_file, "copy")
        assert succeeds_within(20, lambda: bool(fetch(copy, waiting)))
        request.execute(f"LOCK TABLE {first} IN ROW EXCLUSIVE MODE".encode())
        request.commit()
        upgrade.result(60)
    test_owner_owns_everything_and_sequences_can_only_be_used(copy)


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Yield a server that logs every statement, with an administrator who is no superuser, as hosted PostgreSQL has."""
    options = ["log_statement=all", "log_min_duration_statement=0", "log_transaction_sample_rate=1"]
    with Postgres(tmp_path_factory.mktemp("hosted"), options=options, has_roles=False) as server:
        server.execute(f"CREATE ROLE administrator LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
        server.execute("CREATE DATABASE hosted OWNER administrator")
        server.run_roles_file("hosted", user="administrator")  # who has to be the one that creates the roles
        yield server


def test_administrator_without_superuser_sets_up_the_roles(hosted: Postgres) -> None:
    hosted.run_roles_file("hosted", user="administrator")  # again, as for an upgrade
    administrator = as_role(hosted.url.replace("/tests", "/hosted"), "administrator")
    for role in (OWNER_ROLE, APPLICATION_ROLE):
        execute(administrator, f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    code, _, errors = run_command("migrate", database=as_owner(administrator))
    assert code == 0, errors
    test_privileges_on_every_table_are_those_in_the_code(as_application(administrator))


def test_schema_other_than_public(hosted: Postgres) -> None:
    """The name needs quotes. The administrator's search_path selects the schema."""
    hosted.execute('CREATE SCHEMA "Own"; CREATE TABLE "Own".thing (id serial); CREATE TABLE public.thing ()')
    hosted.execute('ALTER ROLE tester IN DATABASE tests SET search_path = "Own"')
    hosted.run_roles_file("tests")
    owners = "SELECT relowner::regrole::text FROM pg_class WHERE oid = %s::regclass"
    assert fetch(hosted.url, owners, '"Own".thing') == [(OWNER_ROLE,)]
    assert fetch(hosted.url, owners, "public.thing") == [(SUPERUSER,)]
    query = "SELECT has_schema_privilege(%s, %s, 'USAGE'), has_schema_privilege(%s, %s, 'CREATE')"
    for role, may_create in ((OWNER_ROLE, True), (APPLICATION_ROLE, False)):
        assert fetch(hosted.url, query, role, "Own", role, "Own") == [(True, may_create)]


def test_passwords_in_files_are_set_and_not_logged(hosted: Postgres) -> None:
    hosted.run_roles_file("tests", migrate="new-of-migrate", app="new-of-app")
    for role, password in ((OWNER_ROLE, "new-of-migrate"), (APPLICATION_ROLE, "new-of-app")):
        with psycopg.connect(f"postgres://{role}:{password}@127.0.0.1:{hosted.port}/tests") as connection:
            assert connection.execute("SELECT current_user").fetchone() == (role,)
    log = Path(hosted.folder, "log").read_text()
    assert "CREATE ROLE" in log
    assert "new-of" not in log


def test_empty_file_does_not_remove_a_password(hosted: Postgres) -> None:
    """PostgreSQL would accept an empty password, with which nobody can log in."""
    hosted.run_roles_file("tests", migrate="of-migrate", app="of-app")
    with pytest.raises(AssertionError, match="A file with a password is missing or empty"):
        hosted.run_roles_file("tests", migrate="other", app="")
    for role, password in ((OWNER_ROLE, "of-migrate"), (APPLICATION_ROLE, "of-app")):
        psycopg.connect(f"postgres://{role}:{password}@127.0.0.1:{hosted.port}/tests").close()
