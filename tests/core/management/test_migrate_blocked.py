"""`migrate` while other transactions hold locks: it delays other statements only briefly, and reports its blockers."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.database_roles import OWNER_ROLE
from core.management.commands.migrate import MAX_TRIES
from tests.core.management.test_migrate import ROOT, empty_database, run_command
from tests.support import databases
from tests.support.dependency_servers import SUPERUSER, PgBouncer, as_owner, needs_pgbouncer
from tests.support.forked_python import ForkedPython
from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, newer_code
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within

__all__ = ["empty_database"]

CANARY = "canary-of-a-patient"
# Looks for blockers all the time, so that a snapshot of that query always exists.
POLLS_ALWAYS = (
    "from core.clients.postgresql import migration_locks; migration_locks._POLL_INTERVAL = 0; "
    "from manage import main; main()"
)
TWO_TRIES = "from core.management.commands import migrate; migrate.MAX_TRIES = 2; from manage import main; main()"


class Migrate:
    """A running `migrate` of newer code. Leaving the context kills it."""

    def __init__(
        self, folder: Path, *operations: str, url: str, program: str = "from manage import main; main()"
    ) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        with self.stdout.open("w") as stdout, self.stderr.open("w") as stderr:
            self.process = ForkedPython(
                ["-c", program, "migrate"],
                env={**os.environ, "DATABASE_URL": url, **newer_code(folder, *operations)},
                cwd=ROOT, stdout=stdout, stderr=stderr,
            )  # fmt: skip

    def __enter__(self) -> "Migrate":
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, pattern: str) -> str:
        """Wait until a line of stderr matches, and return that line."""

        def find() -> re.Match[str] | None:
            return re.search(f"^.*{pattern}.*$", self.stderr.read_text(), re.MULTILINE)

        succeeds_within(40, lambda: find() or self.process.poll() is not None)
        match = find()
        assert match, self.stderr.read_text()
        return match[0]

    def wait(self) -> int:
        assert succeeds_within(40, lambda: self.process.poll() is not None), self.stderr.read_text()
        return int(self.process.returncode)


@pytest.fixture
def migrated_database(servers: Servers) -> Iterator[str]:
    """Return the owner's URL of a database with all migrations applied."""
    yield as_owner(databases.migrated_database(servers.postgres, "blocked"))
    servers.postgres.execute("DROP DATABASE blocked WITH (FORCE)")


@contextlib.contextmanager
def blocker(url: str) -> Iterator[int]:
    """Run a long transaction that has read messages and holds a snapshot, as pg_dump does. Yield its pid."""
    with psycopg.connect(url, application_name="monthly report") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(f"SELECT count(*) FROM messages WHERE content <> '{CANARY}'".encode())
        yield connection.info.backend_pid
        connection.rollback()


def fetch_all(url: str, query: str) -> Any:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


COLUMN_COUNT = (
    "SELECT count(*) FROM information_schema.columns WHERE table_name = 'messages' AND column_name = 'language'"
)
MIGRATION_COUNT = "SELECT count(*) FROM django_migrations WHERE app = 'core' AND name LIKE '%\\_next'"
INDEX_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('messages_model')"


def assert_names_blocker(line: str, pid: int) -> None:
    assert line.startswith("Waiting for AccessExclusiveLock on messages, blocked by")
    assert (
        f"pid {pid}, application 'monthly report', user '{OWNER_ROLE}', idle in transaction, in a transaction since 2"
        in line
    )


def test_succeeds_when_the_blocker_ends(migrated_database: str, tmp_path: Path) -> None:
    with Migrate(tmp_path, ADD_COLUMN, url=migrated_database) as migrate:
        with blocker(migrated_database) as pid:
            assert_names_blocker(migrate.wait_for("blocked by"), pid)
            migrate.wait_for(f"try 1 of {MAX_TRIES}")
            with blocker(migrated_database) as second_pid:
                assert_names_blocker(migrate.wait_for(f"blocked by pid {second_pid},"), second_pid)
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert fetch_all(migrated_database, COLUMN_COUNT) == [(1,)]
    assert CANARY not in migrate.stderr.read_text() + migrate.stdout.read_text()


def test_fails_after_the_last_try_and_can_be_run_again(migrated_database: str, tmp_path: Path) -> None:
    with (
        blocker(migrated_database) as pid,
        Migrate(tmp_path, ADD_COLUMN, url=migrated_database, program=TWO_TRIES) as migrate,
    ):
        assert migrate.wait() == 1
    errors = migrate.stderr.read_text()
    assert "Traceback" not in errors
    assert re.search(r"CommandError: core\.\d{4}_next could not get a lock .* in 2 tries and was rolled back\.", errors)
    assert "pg_terminate_backend" in errors
    assert_names_blocker(errors.splitlines()[-1], pid)
    assert CANARY not in errors
    assert fetch_all(migrated_database, COLUMN_COUNT) == fetch_all(migrated_database, MIGRATION_COUNT) == [(0,)]
    second_run = tmp_path / "second"
    second_run.mkdir()
    with Migrate(second_run, ADD_COLUMN, url=migrated_database) as migrate:
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert fetch_all(migrated_database, COLUMN_COUNT) == fetch_all(migrated_database, MIGRATION_COUNT) == [(1,)]


def test_unprivileged_role_sees_only_part_of_the_blocker(servers: Servers, tmp_path: Path) -> None:
    servers.postgres.execute("CREATE ROLE migrator LOGIN PASSWORD 'word'")
    servers.postgres.execute("CREATE DATABASE unprivileged OWNER migrator")
    as_tester = servers.postgres.url.replace("/tests", "/unprivileged")
    url = re.sub("//.*@", "//migrator:word@", as_tester)
    try:
        assert run_command("migrate", database=url)[0] == 0
        with Migrate(tmp_path, ADD_COLUMN, url=url) as migrate:
            with blocker(as_tester) as pid:
                line = migrate.wait_for("blocked by")
            assert migrate.wait() == 0, migrate.stderr.read_text()
        assert f"pid {pid}, application 'monthly report', user 'tester'. Grant pg_monitor" in line
    finally:
        servers.postgres.execute("DROP DATABASE unprivileged WITH (FORCE)")
        servers.postgres.execute("DROP ROLE migrator")


def test_concurrent_index_waits_without_a_limit(migrated_database: str, tmp_path: Path) -> None:
    """CREATE INDEX CONCURRENTLY blocks nothing, but waits for all transactions, so the connection's limits are off."""
    limits = f"{migrated_database}?options=-c%20lock_timeout%3D100%20-c%20statement_timeout%3D1000"
    with Migrate(tmp_path, ADD_INDEX, url=limits) as migrate:
        with blocker(migrated_database) as pid:
            assert f"pid {pid}, application 'monthly report'" in migrate.wait_for("blocked by")
            with psycopg.connect(migrated_database, autocommit=True) as connection:  # longer than both limits
                connection.execute("SELECT pg_sleep(2)")
                connection.execute("UPDATE messages SET model = ''")
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(True,)]
    assert "try 1" not in migrate.stderr.read_text()


def test_recreates_an_invalid_index(migrated_database: str, tmp_path: Path) -> None:
    with blocker(migrated_database), psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute("SET lock_timeout = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("CREATE INDEX CONCURRENTLY messages_model ON messages (model)")
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(False,)]
    with Migrate(tmp_path, ADD_INDEX, url=migrated_database) as migrate:
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert "Dropping the index" in migrate.stderr.read_text()
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(True,)]


def test_killed_migrate_leaves_an_index_that_is_recreated(migrated_database: str, tmp_path: Path) -> None:
    """PostgreSQL also ends its statement, which could otherwise complete an index that no migration records."""
    building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()"
    with blocker(migrated_database), Migrate(tmp_path, ADD_INDEX, url=migrated_database) as migrate:
        migrate.wait_for("blocked by")
        assert fetch_all(migrated_database, building) == [(1,)]
        migrate.process.kill()
        assert succeeds_within(30, lambda: fetch_all(migrated_database, building) == [(0,)], interval=0.1)
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(False,)]
    second_run = tmp_path / "second"
    second_run.mkdir()
    with Migrate(second_run, ADD_INDEX, url=migrated_database) as migrate:
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(True,)]


def test_non_atomic_migration_is_bounded_and_not_retried(migrated_database: str, tmp_path: Path) -> None:
    """ALTER TABLE together with a concurrent index: the migration may be half applied."""
    with blocker(migrated_database), Migrate(tmp_path, f"{ADD_COLUMN},{ADD_INDEX}", url=migrated_database) as migrate:
        assert migrate.wait() == 1
    errors = migrate.stderr.read_text()
    assert "Traceback" not in errors
    assert "It is not retried automatically" in errors
    second_run = tmp_path / "second"
    second_run.mkdir()
    with Migrate(second_run, f"{ADD_COLUMN},{ADD_INDEX}", url=migrated_database) as migrate:
        assert migrate.wait() == 0, migrate.stderr.read_text()
    assert fetch_all(migrated_database, COLUMN_COUNT) == [(1,)]
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(True,)]


def test_retries_after_a_deadlock_with_the_application(migrated_database: str, tmp_path: Path) -> None:
    """PostgreSQL aborts the migration's transaction, because the other one has a longer deadlock_timeout."""
    locks = 'migrations.RunSQL("LOCK messages; LOCK sessions", "")'
    waits = "SELECT count(*) FROM pg_locks WHERE relation = 'sessions'::regclass AND NOT granted"
    with Migrate(tmp_path, locks, url=migrated_database) as migrate:
        with psycopg.connect(migrated_database, user=SUPERUSER) as other:
            other.execute("SET deadlock_timeout = '30s'")
            other.execute("LOCK sessions")
            assert succeeds_within(40, lambda: other.execute(waits).fetchone() != (0,)), migrate.stderr.read_text()
            other.execute("LOCK messages")
        migrate.wait_for(f"try 1 of {MAX_TRIES}")
        assert migrate.wait() == 0, migrate.stderr.read_text()


@needs_pgbouncer
def test_works_behind_pgbouncer(servers: Servers, migrated_database: str, tmp_path: Path) -> None:
    """The limit applies, the blocker is reported, and other clients of the pool do not inherit the limit."""
    pooler = PgBouncer(
        tmp_path / "pgbouncer", servers.postgres, pool=3
    )  # migrate needs two, and one to look for blockers
    pooler.start()
    try:
        pooled = pooler.url_for(migrated_database)
        with Migrate(tmp_path, ADD_COLUMN, ADD_INDEX, url=pooled) as migrate:
            with blocker(migrated_database) as pid:
                assert_names_blocker(migrate.wait_for("blocked by"), pid)
                migrate.wait_for(f"try 1 of {MAX_TRIES}")
            assert migrate.wait() == 0, migrate.stderr.read_text()
        with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as connection:
            assert {connection.execute("SHOW lock_timeout").fetchone() for _ in range(6)} == {("0",)}
    finally:
        pooler.kill()
    assert fetch_all(migrated_database, COLUMN_COUNT) == [(1,)]
    assert fetch_all(migrated_database, INDEX_IS_VALID) == [(True,)]


def test_index_does_not_wait_for_the_search_for_blockers(migrated_database: str, tmp_path: Path) -> None:
    """CREATE INDEX CONCURRENTLY waits for the end of every transaction that has a snapshot when it looks."""
    indexes = [ADD_INDEX.replace("messages_model", f"messages_model_{number}") for number in range(10)]
    with Migrate(tmp_path, *indexes, url=migrated_database, program=POLLS_ALWAYS) as migrate:
        assert migrate.wait() == 0, migrate.stderr.read_text()
