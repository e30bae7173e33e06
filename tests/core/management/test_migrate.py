"""`migrate` on an empty database: forwards, back to zero, and in many processes at once."""

import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.dependency_servers import as_owner
from tests.support.forked_python import ForkedPython, run
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within

ROOT = Path(__file__).resolve().parents[3]
TEST_SETTINGS = "tests.support.migrating.settings"


def start_command(*arguments: str, database: str, settings: str = "voiceassist.settings") -> "subprocess.Popen[str]":
    return ForkedPython(
        ["manage.py", *arguments],
        env={**os.environ, "DATABASE_URL": database, "DJANGO_SETTINGS_MODULE": settings},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_command(*arguments: str, database: str) -> tuple[int, str, str]:
    with start_command(*arguments, database=database) as process:
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors


@pytest.fixture
def empty_database(servers: Servers, request: pytest.FixtureRequest) -> str:
    """Return the owner's URL of an empty database."""
    name = f"fresh_{abs(hash(request.node.name))}"
    servers.postgres.execute(f"CREATE DATABASE {name}")
    request.addfinalizer(lambda: servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
    return as_owner(servers.postgres.url.replace("/tests", f"/{name}"))


def tables(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {row[0] for row in rows}


# In one process, which starts once for all apps.
UNAPPLY_ALL = """
import django; django.setup()
from django.core.management import call_command
for app in ("axes", "admin", "core", "auth", "sessions", "contenttypes"):
    call_command("migrate", app, "zero", verbosity=0)
"""


def test_migrates_forwards_and_back_to_zero(empty_database: str) -> None:
    assert run_command("migrate", database=empty_database)[0] == 0
    assert {"users", "sessions", "messages"} <= tables(empty_database)
    unapplied = run(["-c", UNAPPLY_ALL], {**os.environ, "DATABASE_URL": empty_database})
    assert unapplied.returncode == 0, unapplied.stderr
    assert tables(empty_database) == {"django_migrations"}
    assert run_command("migrate", database=empty_database)[0] == 0
    assert {"users", "sessions", "messages"} <= tables(empty_database)
    with psycopg.connect(empty_database) as connection:  # Django has not added again what core.0017 has added
        columns = "count(*), count(DISTINCT (content_type_id, codename))"
        (permissions, different_ones), *_ = connection.execute(f"SELECT {columns} FROM auth_permission").fetchall()
    assert permissions == different_ones


def rows(database: str) -> list[Any]:
    """Return what the migrations of tests.support.migrating created: the rows of its table, and its valid indexes."""
    indexes = (
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'migrating_row'::regclass AND indisvalid"
    )
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT text FROM migrating_row UNION ALL " + indexes).fetchall()


COMPLETE = [("once",), ("migrating_row_pkey",), ("rows_text",)]


def migrate_concurrently(count: int, *, url: str) -> None:
    """Run `migrate` in `count` processes, with a data migration and one that waits for all snapshots."""
    processes = [start_command("migrate", database=url, settings=TEST_SETTINGS) for _ in range(count)]
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in results] == [0] * count, results
    assert len([output for (output, _), _ in results if "Applying core.0001_initial... OK" in output]) == 1
    messages = {errors for (_, errors), _ in results if errors}
    assert messages <= {"Another migrate is running; waiting for it to finish.\n"}
    assert rows(url) == COMPLETE


def test_processes_take_turns(empty_database: str) -> None:
    migrate_concurrently(4, url=empty_database)


def test_a_killed_process_releases_the_lock(empty_database: str) -> None:
    """The process is killed in the middle of a migration."""
    with psycopg.connect(empty_database, autocommit=True) as blocker:

        def waiting_pids() -> set[int]:
            rows = blocker.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall()
            return {pid for (pid,) in rows}

        blocker.execute("SELECT pg_advisory_lock(1)")
        holder = start_command("migrate", database=empty_database, settings=TEST_SETTINGS)
        assert succeeds_within(30, waiting_pids)
        first_pids = waiting_pids()
        second = start_command("migrate", database=empty_database, settings=TEST_SETTINGS)
        assert second.stderr
        assert "waiting for it to finish" in second.stderr.readline()
        holder.kill()
        holder.communicate()
        # The second process runs the same migration.
        assert succeeds_within(30, lambda: waiting_pids() - first_pids)
        blocker.execute("SELECT pg_advisory_unlock(1)")
        output, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
    assert rows(empty_database) == COMPLETE


def test_migrate_and_checkdeps_run_concurrently(empty_database: str) -> None:
    commands = [["migrate"], ["checkdeps", "--wait", "40", "--only", "migrations"]] * 2
    processes = [start_command(*command, database=empty_database) for command in commands]
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in results] == [0] * len(commands), results


def test_migrations_match_the_models() -> None:
    assert run_command("makemigrations", "--check", "--dry-run", database=os.environ["DATABASE_URL"])[0] == 0


def test_connection_error_does_not_show_the_password() -> None:
    code, output, errors = run_command("migrate", database="postgres://user:hunter2@127.0.0.1:1/name")
    assert code == 1
    assert "hunter2" not in output + errors
