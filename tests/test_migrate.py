"""Migrations on a fresh PostgreSQL: forth, back to zero, and started by many at once."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.plugin import Servers

ROOT = Path(__file__).resolve().parent.parent


def command(*words: str, database: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", *words],
        env={**os.environ, "DATABASE_URL": database},
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


def test_eight_at_once_take_turns(fresh: str) -> None:
    processes = [command("migrate", database=fresh) for _ in range(8)]
    ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * 8, ends
    applied = [output for (output, _), _ in ends if "Applying core.0001_initial... OK" in output]
    assert len(applied) == 1
    waited = [errors for (_, errors), _ in ends if "waiting" in errors]
    assert all(errors.count("\n") == 1 for errors in waited)


def test_a_killed_holder_does_not_keep_the_turn(fresh: str) -> None:
    from core.management.commands.migrate import LOCK

    with psycopg.connect(fresh, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        waiting = command("migrate", database=fresh)
        assert waiting.stderr
        assert "waiting for its end" in waiting.stderr.readline()
        assert tables(fresh) == set()
        with psycopg.connect(fresh, autocommit=True) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", [holder.info.backend_pid])
        assert waiting.wait(60) == 0
        waiting.communicate()
    assert "messages" in tables(fresh)


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
