"""Migrations on a fresh PostgreSQL: forth, back to zero, and started by many at once."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.plugin import Servers

ROOT = Path(__file__).resolve().parents[3]
MIGRATING = "tests.support.migrating.settings"


def command(*words: str, database: str, settings: str = "voiceassist.settings") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", *words],
        env={**os.environ, "DATABASE_URL": database, "DJANGO_SETTINGS_MODULE": settings},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: str, database: str) -> tuple[int, str, str]:
    with command(*words, database=database) as process:
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors


@pytest.fixture
def fresh(servers: Servers, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    name = f"fresh_{abs(hash(request.node.name))}"
    servers.postgres.execute(f"CREATE DATABASE {name}")
    request.addfinalizer(lambda: servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
    return servers.postgres.url.replace("/tests", f"/{name}")


def tables(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {row[0] for row in rows}


def test_forth_and_back_to_zero(fresh: str) -> None:
    assert run("migrate", database=fresh)[0] == 0
    assert {"users", "sessions", "messages"} <= tables(fresh)
    for app in ("axes", "admin", "core", "auth", "sessions", "contenttypes"):
        code, _, errors = run("migrate", app, "zero", database=fresh)
        assert code == 0, errors
    assert tables(fresh) == {"django_migrations"}
    assert run("migrate", database=fresh)[0] == 0
    assert {"users", "sessions", "messages"} <= tables(fresh)


def rows(database: str) -> list[Any]:
    """Returns what the migrations of tests.support.migrating have left: the rows of its table, and its indexes."""
    indexes = (
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'migrating_row'::regclass AND indisvalid"
    )
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT text FROM migrating_row UNION ALL " + indexes).fetchall()


WHOLE = [("once",), ("migrating_row_pkey",), ("rows_text",)]


def migrate_at_once(many: int, *, url: str) -> None:
    """A fresh database, a migration of data, and one that PostgreSQL makes wait for all snapshots."""
    processes = [command("migrate", database=url, settings=MIGRATING) for _ in range(many)]
    ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * many, ends
    assert len([output for (output, _), _ in ends if "Applying core.0001_initial... OK" in output]) == 1
    waited = {errors for (_, errors), _ in ends if errors}
    assert waited <= {"Another migrate is running; waiting for it to finish.\n"}
    assert rows(url) == WHOLE


def test_eight_at_once_take_turns(fresh: str) -> None:
    migrate_at_once(8, url=fresh)


def test_a_killed_holder_does_not_keep_the_turn(fresh: str) -> None:
    """Killed in the middle of a migration."""
    with psycopg.connect(fresh, autocommit=True) as gate:

        def waiting() -> set[int]:
            rows = gate.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall()
            return {pid for (pid,) in rows}

        gate.execute("SELECT pg_advisory_lock(1)")
        holder = command("migrate", database=fresh, settings=MIGRATING)
        end = time.monotonic() + 30
        while not (killed := waiting()):
            assert time.monotonic() < end
            time.sleep(0.05)
        next_one = command("migrate", database=fresh, settings=MIGRATING)
        assert next_one.stderr
        assert "waiting for it to finish" in next_one.stderr.readline()
        holder.kill()
        holder.communicate()
        while not waiting() - killed:  # it has its turn, and does the same again
            assert time.monotonic() < end
            time.sleep(0.05)
        gate.execute("SELECT pg_advisory_unlock(1)")
        output, errors = next_one.communicate(timeout=60)
        assert next_one.returncode == 0, errors
    assert rows(fresh) == WHOLE


def test_any_two_commands_at_once(fresh: str) -> None:
    words = [["migrate"], ["checkdeps", "--wait", "40", "--only", "migrations"]] * 4
    processes = [command(*each, database=fresh) for each in words]
    ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * 8, ends


def test_the_models_and_the_migrations_agree() -> None:
    assert run("makemigrations", "--check", "--dry-run", database=os.environ["DATABASE_URL"])[0] == 0


def test_a_database_that_is_down_is_told_without_the_password() -> None:
    code, output, errors = run("migrate", database="postgres://user:hunter2@127.0.0.1:1/name")
    assert code == 1
    assert "hunter2" not in output + errors
