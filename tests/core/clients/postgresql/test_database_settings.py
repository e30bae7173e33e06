"""Databases with other settings than the defaults: the application works with them, or reports what to correct."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test import Client

from core.conversations import append_message, end_session, read_messages
from core.models import AuditEvent, Message, Session, User
from health.checks import CHECKS, failure_reasons
from health.checks.failure_reasons import CheckFailed
from tests.core.clients.postgresql.connections import requires_real_transactions
from tests.core.management.test_migrate import run_command
from tests.support.dependency_servers import PgBouncer, needs_pgbouncer
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.proxy import Proxy

pytestmark = [requires_real_transactions, pytest.mark.database_superuser]  # `migrate` runs in new databases

NAME = "with_settings"
PASSWORD = "the admin's password"
Use = Callable[..., str]


@pytest.fixture
def use_database(transactional_db: None, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Return a function that creates a database, runs statements in it, points the ORM at it, and returns its URL."""

    def use(*statements: str, encoding: str = "UTF8") -> str:
        servers.postgres.execute(
            f"CREATE DATABASE {NAME} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        url = servers.postgres.url.replace("/tests", f"/{NAME}")
        with psycopg.connect(url, autocommit=True) as database:
            for statement in statements:
                database.execute(statement.encode())
        close_connections()
        monkeypatch.setitem(connection.settings_dict, "NAME", NAME)
        return url

    yield use
    close_connections()
    servers.postgres.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


def close_connections() -> None:
    connections.close_all()
    drop_readiness_connections()


def alter(**settings: str) -> list[str]:
    return [f"ALTER DATABASE {NAME} SET {name} = {value}" for name, value in settings.items()]


def migrate() -> None:
    call_command("migrate", verbosity=0)


HARMLESS = {
    "German dates": alter(datestyle="'German, DMY'"),
    "SQL dates": alter(datestyle="'SQL, MDY'"),
    "schema and isolation": [
        'CREATE SCHEMA "Own"',
        *alter(search_path='"Own"', default_transaction_isolation="serializable", default_transaction_deferrable="on"),
    ],
    "others": alter(
        timezone="'Asia/Kathmandu'", datestyle="'Postgres, YMD'", intervalstyle="sql_standard", bytea_output="escape",
        extra_float_digits="'-15'", client_encoding="LATIN1", quote_all_identifiers="on", xmloption="document",
        standard_conforming_strings="off", backslash_quote="off", transform_null_equals="on", array_nulls="off",
        timezone_abbreviations="'India'", check_function_bodies="off", row_security="off",
        plan_cache_mode="force_generic_plan", jit_above_cost="0", synchronous_commit="off",
        statement_timeout="'30s'", lock_timeout="'1ms'", idle_session_timeout="'30s'",
        idle_in_transaction_session_timeout="'1ms'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("statements", HARMLESS.values(), ids=HARMLESS)
def test_works_with_setting(use_database: Use, statements: list[str]) -> None:
    use_database(*statements)
    for _ in range(2):  # the second one finds the tables
        migrate()
    user = User.objects.create_superuser("ann@example.org", PASSWORD)
    session = Session.objects.create(user=user, title="é")
    message: dict[str, Any] = {"role": "user", "content": "a\\b 'é'", "metadata": {"é": [1.5, None, "\\"]}}
    for _ in range(2):
        append_message(session.pk, client_message_id="m1", **message)
    (stored,) = read_messages(session.pk).messages
    assert {name: getattr(stored, name) for name in message} == message
    ended_at = end_session(session.pk).ended_at
    assert ended_at and ended_at >= stored.created_at
    assert AuditEvent.objects.filter(object_id=session.pk, action="change").exists()
    client = Client()
    assert client.post("/admin/login/", {"username": user.email, "password": PASSWORD}).status_code == 302
    for page in ("user", "session", "message", "auditevent", f"message/{stored.pk}/change"):
        assert client.get(f"/admin/core/{page}/").status_code == 200
    for check in ("postgres", "migrations"):
        CHECKS[check](10)


WITHOUT_OPTIONS = "without options"  # the URL has `?options=`, as for a pooler that rejects options
REFUSED: dict[str, tuple[list[str], str, str]] = {
    "SQL_ASCII": ([], "SQL_ASCII", "ENCODING 'UTF8'"),
    "LATIN1": ([], "LATIN1", "ENCODING 'UTF8'"),
    "unknown schema": (alter(search_path="nowhere"), "search_path", "correct search_path"),
    "no schema": (alter(search_path="''"), "search_path", "correct search_path"),
    "pg_catalog": (alter(search_path="pg_catalog, public"), "search_path", "correct search_path"),
    "pg_temp": (alter(search_path="pg_temp"), "search_path", "correct search_path"),
    "replica": (alter(session_replication_role="replica"), "audit trail", "session_replication_role = origin"),
    f"serializable, {WITHOUT_OPTIONS}": (
        alter(default_transaction_isolation="serializable"), "'serializable'", "isolation = 'read committed'",
    ),
    **{
        f"{value} commits, {WITHOUT_OPTIONS}": (
            alter(synchronous_commit=value), f"synchronous_commit is '{value}'", "synchronous_commit = on",
        )
        for value in ("off", "local", "remote_write")
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_setting_until_it_is_corrected(use_database: Use, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    statements, problem, remedy = REFUSED[case]
    if WITHOUT_OPTIONS in case:
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", "")
    url = use_database(*statements, encoding="UTF8" if statements else case)
    for check in ("postgres", "migrations"):
        with pytest.raises(CheckFailed, match=problem) as failure:
            CHECKS[check](10)
        assert failure.value.reason == failure_reasons.MISCONFIGURED
        assert remedy in str(failure.value)
    with pytest.raises(CommandError, match=problem) as error:
        migrate()
    assert remedy in str(error.value)
    with psycopg.connect(url, autocommit=True) as database:
        assert count_tables(database) == 0
        database.execute(f"ALTER DATABASE {NAME} RESET ALL".encode())
    if statements:
        CHECKS["postgres"](10)


REFUSED_BY_MIGRATE = {
    "read-only": (alter(default_transaction_read_only="on"), "The database is read-only"),
    "no privilege": (alter(role="pg_monitor"), "run GRANT CREATE ON SCHEMA public TO pg_monitor"),
    "tables of another application": (
        ["CREATE TABLE django_migrations ()", "CREATE SCHEMA own", *alter(search_path="own, public")],
        "django_migrations in the schema public",
    ),
}


@pytest.mark.parametrize(("statements", "problem"), REFUSED_BY_MIGRATE.values(), ids=REFUSED_BY_MIGRATE)
def test_migrate_refuses(use_database: Use, statements: list[str], problem: str) -> None:
    url = use_database(*statements)
    with psycopg.connect(url, autocommit=True) as database:
        tables = count_tables(database)
        with pytest.raises(CommandError, match=problem):
            migrate()
        assert count_tables(database) == tables


def count_tables(database: "psycopg.Connection[Any]") -> int:
    row = database.execute("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384").fetchone()
    assert row
    return int(row[0])


def test_commands_print_what_to_do(use_database: Use) -> None:
    url = use_database(encoding="LATIN1")
    code, output, errors = run_command("migrate", database=url)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("CommandError: Nothing was changed")
    code, output, errors = run_command("checkdeps", "--only", "postgres", database=url)
    assert (code, errors) == (1, "")
    assert "misconfigured: The encoding of the database is LATIN1" in output


def test_threads_append_to_one_session_in_a_serializable_database(use_database: Use) -> None:
    use_database(*alter(default_transaction_isolation="serializable"))
    migrate()
    session = Session.objects.create(user=User.objects.create_user("ann@example.org"))

    def append(_: int) -> None:
        for _ in range(25):
            append_message(session.pk, role="user")
        connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    assert Message.objects.filter(session=session).count() == 100


@needs_pgbouncer
def test_date_style_is_not_shared_through_pgbouncer(
    use_database: Use, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our connection and one of another program alternate on the same connections to PostgreSQL."""
    url = use_database(*alter(datestyle="'German, DMY'"))
    pooler = PgBouncer(tmp_path, servers.postgres)
    with started(pooler, monkeypatch), psycopg.connect(pooler.url_for(url), autocommit=True) as other:
        for _ in range(4):
            with connection.cursor() as cursor:
                cursor.execute("SELECT now()")
                assert isinstance(cursor.fetchone()[0], datetime)
            assert other.execute("SHOW datestyle").fetchone() == ("German, DMY",)


def test_works_with_a_pooler_that_reports_no_settings(
    use_database: Use, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_database()
    with Proxy(servers.postgres.port) as pooler:
        pooler.hidden = b"(server_encoding|DateStyle|TimeZone)(?=\0)"
        monkeypatch.setitem(connection.settings_dict, "PORT", str(pooler.port))
        migrate()
        assert User.objects.create_user("ann@example.org").created_at
        assert connection.connection.info.parameter_status("DateStyle") is None
        for check in ("postgres", "migrations"):
            CHECKS[check](10)
        close_connections()


@needs_pgbouncer
def test_migrates_through_a_pooler_that_refuses_options(
    use_database: Use, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_database()
    pooler = PgBouncer(tmp_path, servers.postgres)
    configuration = tmp_path / "pgbouncer.ini"
    configuration.write_text(configuration.read_text().replace(",options", ""))
    with started(pooler, monkeypatch):
        with pytest.raises(OperationalError, match="unsupported startup parameter"):
            migrate()
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", "")
        migrate()
        CHECKS["migrations"](10)


@contextmanager
def started(pooler: PgBouncer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start the pooler, and point the ORM at it."""
    pooler.start()
    monkeypatch.setitem(connection.settings_dict, "PORT", str(pooler.port))
    try:
        yield
    finally:
        close_connections()
        pooler.kill()
