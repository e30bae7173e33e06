"""`migrate` while other transactions hold locks: it makes nobody wait for long, and reports what blocks it."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.management.commands.migrate import MAX_TRIES
from tests.core.management.test_migrate import ROOT, fresh, run
from tests.support.dependency_servers import PgBouncer, needs_pgbouncer
from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, newer_code
from tests.support.plugin import Servers

__all__ = ["fresh"]

CANARY = "canary-of-a-patient"
TWO_TRIES = "from core.management.commands import migrate; migrate.MAX_TRIES = 2; from manage import main; main()"


class Migrate:
    """A running `migrate` of newer code. As a context manager it ends with the block."""

    def __init__(
        self, folder: Path, *operations: str, url: str, program: str = "from manage import main; main()"
    ) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        with self.stdout.open("w") as stdout, self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "migrate"],
                env={**os.environ, "DATABASE_URL": url, **newer_code(folder, *operations)},
                cwd=ROOT, stdout=stdout, stderr=stderr,
            )  # fmt: skip

    def __enter__(self) -> "Migrate":
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, pattern: str) -> str:
        """Wait until a line of its errors matches, and return that line."""
        end = time.monotonic() + 40
        while not (found := re.search(f"^.*{pattern}.*$", self.stderr.read_text(), re.MULTILINE)):
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < end, self.stderr.read_text()
            time.sleep(0.05)
        return found[0]

    def ended(self) -> int:
        return self.process.wait(40)


@pytest.fixture
def migrated(fresh: str) -> str:
    """The URL of a database that has our migrations."""
    code, _, errors = run("migrate", database=fresh)
    assert code == 0, errors
    return fresh


@contextlib.contextmanager
def blocker(url: str) -> Iterator[int]:
    """A long transaction that has read the table and holds a snapshot, as pg_dump does. Yields its pid."""
    with psycopg.connect(url, application_name="monthly report") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(f"SELECT count(*) FROM messages WHERE content <> '{CANARY}'".encode())
        yield connection.info.backend_pid
        connection.rollback()


def one(url: str, query: str) -> Any:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


LANGUAGE = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'messages' AND column_name = 'language'"
RECORDED = "SELECT count(*) FROM django_migrations WHERE app = 'core' AND name LIKE '%\\_next'"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('messages_model')"


def names_the_blocker(line: str, pid: int) -> None:
    assert line.startswith("Waiting for AccessExclusiveLock on messages, blocked by")
    assert (
        f"pid {pid}, application 'monthly report', user 'tester', idle in transaction, in a transaction since 2" in line
    )


def test_it_succeeds_when_the_blocker_ends(migrated: str, tmp_path: Path) -> None:
    with Migrate(tmp_path, ADD_COLUMN, url=migrated) as migrate:
        with blocker(migrated) as pid:
            names_the_blocker(migrate.wait_for("blocked by"), pid)
            migrate.wait_for(f"try 1 of {MAX_TRIES}")
            with blocker(migrated) as later:
                names_the_blocker(migrate.wait_for(f"blocked by pid {later},"), later)
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert one(migrated, LANGUAGE) == [(1,)]
    assert CANARY not in migrate.stderr.read_text() + migrate.stdout.read_text()


def test_it_gives_up_and_can_be_run_again(migrated: str, tmp_path: Path) -> None:
    with blocker(migrated) as pid, Migrate(tmp_path, ADD_COLUMN, url=migrated, program=TWO_TRIES) as migrate:
        assert migrate.ended() == 1
    errors = migrate.stderr.read_text()
    assert "Traceback" not in errors
    assert re.search(r"CommandError: core\.\d{4}_next could not get a lock .* in 2 tries and was rolled back\.", errors)
    assert "pg_terminate_backend" in errors
    names_the_blocker(errors.splitlines()[-1], pid)
    assert CANARY not in errors
    assert one(migrated, LANGUAGE) == one(migrated, RECORDED) == [(0,)]
    again = tmp_path / "again"
    again.mkdir()
    with Migrate(again, ADD_COLUMN, url=migrated) as migrate:
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert one(migrated, LANGUAGE) == one(migrated, RECORDED) == [(1,)]


def test_a_role_without_privileges_sees_less(servers: Servers, tmp_path: Path) -> None:
    servers.postgres.execute("CREATE ROLE migrator LOGIN PASSWORD 'word'")
    servers.postgres.execute("CREATE DATABASE lowly OWNER migrator")
    as_tester = servers.postgres.url.replace("/tests", "/lowly")
    url = re.sub("//.*@", "//migrator:word@", as_tester)
    try:
        assert run("migrate", database=url)[0] == 0
        with Migrate(tmp_path, ADD_COLUMN, url=url) as migrate:
            with blocker(as_tester) as pid:
                line = migrate.wait_for("blocked by")
            assert migrate.ended() == 0, migrate.stderr.read_text()
        assert f"pid {pid}, application 'monthly report', user 'tester'. Grant pg_monitor" in line
    finally:
        servers.postgres.execute("DROP DATABASE lowly WITH (FORCE)")
        servers.postgres.execute("DROP ROLE migrator")


def test_a_concurrent_index_waits_without_a_limit(migrated: str, tmp_path: Path) -> None:
    """It blocks nobody, and has to wait for every open transaction. The connection's own limits are not for it."""
    limits = f"{migrated}?options=-c%20lock_timeout%3D100%20-c%20statement_timeout%3D1000"
    with Migrate(tmp_path, ADD_INDEX, url=limits) as migrate:
        with blocker(migrated) as pid:
            assert f"pid {pid}, application 'monthly report'" in migrate.wait_for("blocked by")
            with psycopg.connect(migrated, autocommit=True) as connection:  # longer than both limits
                connection.execute("SELECT pg_sleep(2)")
                connection.execute("UPDATE messages SET model = ''")
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert one(migrated, VALID) == [(True,)]
    assert "try 1" not in migrate.stderr.read_text()


def test_an_index_that_was_left_invalid_is_built_again(migrated: str, tmp_path: Path) -> None:
    with blocker(migrated), psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("SET lock_timeout = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("CREATE INDEX CONCURRENTLY messages_model ON messages (model)")
    assert one(migrated, VALID) == [(False,)]
    with Migrate(tmp_path, ADD_INDEX, url=migrated) as migrate:
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert "Dropping the index" in migrate.stderr.read_text()
    assert one(migrated, VALID) == [(True,)]


def test_a_killed_migrate_leaves_an_index_that_is_built_again(migrated: str, tmp_path: Path) -> None:
    """PostgreSQL ends its statement too, which otherwise would complete an index that no migration records."""
    building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()"
    with blocker(migrated), Migrate(tmp_path, ADD_INDEX, url=migrated) as migrate:
        migrate.wait_for("blocked by")
        assert one(migrated, building) == [(1,)]
        migrate.process.kill()
        end = time.monotonic() + 30
        while one(migrated, building) != [(0,)]:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert one(migrated, VALID) == [(False,)]
    again = tmp_path / "again"
    again.mkdir()
    with Migrate(again, ADD_INDEX, url=migrated) as migrate:
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert one(migrated, VALID) == [(True,)]


def test_what_is_in_no_transaction_is_bounded_and_not_retried(migrated: str, tmp_path: Path) -> None:
    """An ALTER TABLE beside a concurrent index: half of the migration may be done."""
    with blocker(migrated), Migrate(tmp_path, f"{ADD_COLUMN},{ADD_INDEX}", url=migrated) as migrate:
        assert migrate.ended() == 1
    errors = migrate.stderr.read_text()
    assert "Traceback" not in errors
    assert "It is not retried automatically" in errors
    again = tmp_path / "again"
    again.mkdir()
    with Migrate(again, f"{ADD_COLUMN},{ADD_INDEX}", url=migrated) as migrate:
        assert migrate.ended() == 0, migrate.stderr.read_text()
    assert one(migrated, LANGUAGE) == [(1,)]
    assert one(migrated, VALID) == [(True,)]


def test_a_deadlock_with_the_application_is_retried(migrated: str, tmp_path: Path) -> None:
    """PostgreSQL ends the migration's transaction, since the other one is patient."""
    both = 'migrations.RunSQL("LOCK messages; LOCK sessions", "")'
    waits = "SELECT count(*) FROM pg_locks WHERE relation = 'sessions'::regclass AND NOT granted"
    with Migrate(tmp_path, both, url=migrated) as migrate:
        with psycopg.connect(migrated) as other:
            other.execute("SET deadlock_timeout = '30s'")
            other.execute("LOCK sessions")
            while other.execute(waits).fetchone() == (0,):
                assert migrate.process.poll() is None, migrate.stderr.read_text()
                time.sleep(0.02)
            other.execute("LOCK messages")
        migrate.wait_for(f"try 1 of {MAX_TRIES}")
        assert migrate.ended() == 0, migrate.stderr.read_text()


@needs_pgbouncer
def test_behind_pgbouncer(servers: Servers, migrated: str, tmp_path: Path) -> None:
    """The limit holds, the blocker is named, and no other client of the pool gets the limit."""
    pooler = PgBouncer(tmp_path / "pgbouncer", servers.postgres, pool=2)
    pooler.start()
    try:
        pooled = pooler.before(migrated)
        with Migrate(tmp_path, ADD_COLUMN, ADD_INDEX, url=pooled) as migrate:
            with blocker(migrated) as pid:
                names_the_blocker(migrate.wait_for("blocked by"), pid)
                migrate.wait_for(f"try 1 of {MAX_TRIES}")
            assert migrate.ended() == 0, migrate.stderr.read_text()
        with psycopg.connect(pooled, autocommit=True) as connection:
            assert {connection.execute("SHOW lock_timeout").fetchone() for _ in range(6)} == {("0",)}
    finally:
        pooler.kill()
    assert one(migrated, LANGUAGE) == [(1,)]
    assert one(migrated, VALID) == [(True,)]
