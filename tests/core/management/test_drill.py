"""`manage.py drill` proves whole backups, finds each kind of damage, and leaves nothing behind."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from core.drill import DrillError, throwaway
from core.drill.manifest import Manifest
from tests.support.age import new_identity
from tests.support.backups import ROOT, BackedUpPostgres, manifest
from tests.support.polling import succeeds_within

STEPS = ("manifest", "row counts", "migrations", "data structures", "constraints", "audit trail", "append-only")


@pytest.fixture(scope="module")
def server() -> Iterator[BackedUpPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    server = BackedUpPostgres(folder)
    try:
        server.start()
        rows = ("--users", "5", "--sessions", "50", "--messages", "500")
        server.manage("seed_demo", *rows, url=server.application_url)
        server.manage("checkpoint_audit", url=server.application_url)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(server: BackedUpPostgres) -> Path:
    """Return a base backup with several segments of WAL after it."""
    with server.receiving_wal():
        base = server.backup("base")
        for _ in range(3):
            server.execute("SELECT pg_switch_wal()")
            server.execute("UPDATE users SET specialty = specialty || 'x'")
        return base


@pytest.fixture(scope="module")
def dump(server: BackedUpPostgres) -> Path:
    return server.backup("dump")


@pytest.fixture
def folder(server: BackedUpPostgres) -> Iterator[Path]:
    """Return an empty folder with a short path that the drill can use as TMPDIR."""
    path = Path(tempfile.mkdtemp(prefix="drill-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@contextmanager
def copied(server: BackedUpPostgres, backup: Path) -> Iterator[Path]:
    """Copy a backup and the WAL, so that a test may damage them."""
    folder = Path(tempfile.mkdtemp(prefix="drill-copy-"))
    shutil.copytree(server.target, folder / "target")
    try:
        yield folder / "target" / backup.parent.name / backup.name
    finally:
        shutil.rmtree(folder)


def verified(server: BackedUpPostgres, backup: Path) -> Any:
    query = "SELECT verified_at, recovery_seconds, data_age_seconds FROM backups WHERE kind = %s AND name = %s"
    (row,) = server.fetch(query, backup.parent.name, backup.name)
    return row


def fails(done: Any, *texts: str) -> None:
    """Require one line that names the cause and exit code 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("CommandError: The backup is not proven. ")
    for text in texts:
        assert text in line


# Success


@pytest.mark.parametrize("kind", ["base", "dump"])
def test_whole_backup_is_proven_measured_and_recorded(
    server: BackedUpPostgres, base: Path, dump: Path, folder: Path, kind: str
) -> None:
    backup = {"base": base, "dump": dump}[kind]
    server.execute("UPDATE backups SET verified_at = NULL, recovery_seconds = NULL, data_age_seconds = NULL")
    started_at = datetime.now(UTC)
    done = server.drill(backup, TMPDIR=str(folder))
    lines = {line[:32].strip(): line for line in done.stdout.splitlines()}
    assert [name for name in lines if name in STEPS] == list(STEPS)
    assert len(re.findall(r" \d+\.\d s", done.stdout)) >= len(STEPS) + 1
    counts = manifest(backup)["row_counts"]
    assert counts["messages"] == 500
    assert lines["row counts"].endswith(f"  {sum(counts.values()):,} rows in {len(counts)} tables")
    assert "The backup is whole. Recovery took" in done.stdout
    at, recovery, age = verified(server, backup)
    assert at > started_at
    assert 0 < recovery < 240
    assert 0 <= age < 3600
    assert list(folder.iterdir()) == []


@contextmanager
def verifying_worker(
    server: BackedUpPostgres, target: Path, log: Path, **variables: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker that has the backups and the key."""
    command = [*server.as_user, sys.executable, "manage.py", "worker", "--drill", str(target)]
    environment = {
        **os.environ,
        "DATABASE_URL": server.application_url,
        "PATH": server.environment["PATH"],
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--identity", str(server.identity)],
            env=environment | {"LOG_FORMAT": "json"} | variables, cwd=ROOT, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def test_worker_with_the_key_verifies_the_newest_base_backup(server: BackedUpPostgres, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server.receiving_wal():
        newest = server.backup("base")
        with verifying_worker(server, server.target, log):
            assert succeeds_within(120, lambda: verified(server, newest)[0] is not None), log.read_text()
            # A worker that stops now would give the job back, and it would be due at once.
            query = (
                "SELECT status, run_after > now() + interval '1 hour', error, done FROM jobs"
                " WHERE task LIKE '%verify_backup'"
            )
            assert succeeds_within(20, lambda: server.fetch(query)[0][:3] == ("queued", True, ""))
    assert server.fetch(query)[0][3] >= len(STEPS)


def test_worker_reports_a_backup_that_is_not_proven(server: BackedUpPostgres, base: Path, tmp_path: Path) -> None:
    server.execute("DELETE FROM jobs")
    log = tmp_path / "log"
    with copied(server, base) as copy:
        for damaged in copy.parent.glob("2*Z"):
            flip_a_byte(damaged)
        with verifying_worker(server, copy.parent.parent, log):
            query = "SELECT error, attempts FROM jobs WHERE status = 'queued' AND task LIKE '%verify_backup'"
            # Only the first attempt makes progress. The others count, so that the job ends.
            for attempts in (0, 1, 2):
                failed = partial(lambda attempts: server.fetch(query) == [("DrillError", attempts)], attempts)
                assert succeeds_within(60, failed), log.read_text()
                server.execute("UPDATE jobs SET run_after = now() WHERE task LIKE '%verify_backup'")
    assert "the newest backup is not proven" in log.read_text()


@pytest.mark.parametrize("program", ["tar", "gunzip"])
def test_worker_that_stops_ends_the_drill_and_removes_its_data(
    server: BackedUpPostgres, base: Path, folder: Path, tmp_path: Path, program: str
) -> None:
    """Before and after it has started PostgreSQL. The program never ends by itself, and the job is queued again."""
    server.execute("DELETE FROM jobs")
    with tempfile.TemporaryDirectory(prefix="drill-") as programs:
        Path(programs).chmod(0o755)
        slow = Path(programs, program)
        slow.write_text('#!/bin/bash\ntouch "$TMPDIR/began"\nexec sleep 987654\n')
        slow.chmod(0o755)
        path = f"{programs}:{server.environment['PATH']}"
        with verifying_worker(server, server.target, tmp_path / "log", PATH=path, TMPDIR=str(folder)) as worker:
            assert succeeds_within(120, lambda: list(folder.rglob("began"))), (tmp_path / "log").read_text()
            worker.terminate()
            assert worker.wait(60) == 0
    assert [path for path in folder.iterdir() if path.name != "began"] == []
    assert not [process for process in psutil.process_iter(["cmdline"]) if "987654" in (process.info["cmdline"] or [])]
    query = "SELECT status, attempts FROM jobs WHERE task LIKE '%verify_backup'"
    assert server.fetch(query) == [("queued", 0)]


# Damaged files


def flip_a_byte(backup: Path) -> None:
    path = max(backup.glob("*.age"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_byte_and_forge_the_checksums(backup: Path) -> None:
    flip_a_byte(backup)
    forge_the_checksums(backup)


def forge_the_checksums(backup: Path) -> None:
    files = sorted(path.name for path in backup.iterdir() if path.name != "SHA256SUMS")
    done = subprocess.run(["sha256sum", *files], cwd=backup, capture_output=True, check=True)
    (backup / "SHA256SUMS").write_bytes(done.stdout)


def change_manifest(**values: Any) -> Callable[[Path], None]:
    def change(backup: Path) -> None:
        path = backup / "manifest.json"
        content = json.loads(path.read_text())
        for name, value in values.items():
            content[name] = value(content[name]) if callable(value) else value
        path.write_text(json.dumps(content, separators=(",", " : ")).replace(",", ", "))
        forge_the_checksums(backup)

    return change


def remove_a_segment(backup: Path) -> None:
    start = manifest(backup)["start_wal"]
    wal = backup.parents[1] / "wal"
    later = sorted(path for path in wal.glob("*[0-9A-F].gz.age") if path.name[8:24] > start[8:])
    later[0].unlink()


def damage_the_last_segment(backup: Path) -> None:
    path = max((backup.parents[1] / "wal").glob("*.partial.gz.age"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "damage", "text"),
    [
        ("base", flip_a_byte, "checksum"),
        ("dump", flip_a_byte, "checksum"),
        ("base", flip_a_byte_and_forge_the_checksums, "failed"),
        ("dump", flip_a_byte_and_forge_the_checksums, "failed"),
        ("base", lambda backup: (backup / "SHA256SUMS").unlink(), "is not a complete backup"),
        ("dump", lambda backup: (backup / "manifest.json").unlink(), "has no manifest.json"),
        ("base", remove_a_segment, "is missing"),
        ("base", damage_the_last_segment, ".partial.gz.age can't be decrypted"),
        ("base", change_manifest(row_counts=lambda counts: counts | {"messages": 499}), "messages has 500 rows"),
        ("dump", change_manifest(row_counts=lambda counts: counts | {"messages": 501}), "messages has 500 rows"),
        ("dump", change_manifest(row_counts=lambda counts: counts | {"gone": 1}), "The table gone is missing"),
        ("dump", change_manifest(product_version="99.0"), "The backup was made by version 99.0"),
        ("dump", change_manifest(migrations=lambda names: [*names, "core.9999_later"]), "core.9999_later"),
        ("dump", change_manifest(last_audit_event={"position": 10**9, "id": "0" * 32}), "last audit event"),
        ("dump", change_manifest(last_audit_checkpoint={"digest": "0" * 64}), "No checkpoint has the digest"),
    ],
)
def test_damaged_file_is_found(
    server: BackedUpPostgres, base: Path, dump: Path, kind: str, damage: Callable[[Path], None], text: str
) -> None:
    backup = {"base": base, "dump": dump}[kind]
    before = verified(server, backup)
    with copied(server, backup) as copy:
        damage(copy)
        fails(server.drill(copy, check=False), text)
    assert verified(server, backup) == before


def test_wrong_identity_is_refused(server: BackedUpPostgres, dump: Path, tmp_path: Path) -> None:
    new_identity(tmp_path / "other")
    fails(server.drill(dump, check=False, identity=tmp_path / "other"), "The identity can't decrypt the backup")
    fails(server.drill(dump, check=False, identity=tmp_path / "none"), "can't be read")


# Damaged databases


@contextmanager
def damaged(server: BackedUpPostgres, damage: str) -> Iterator[None]:
    """Create a copy of the database, and damage it as superuser."""
    server.execute("CREATE DATABASE damaged TEMPLATE tests")
    try:
        with psycopg.connect(server.url.replace("/tests", "/damaged"), autocommit=True) as connection:
            if damage == "remove event":
                query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit_events'::regclass AND NOT tgisinternal"
                triggers = [name for (name,) in connection.execute(query).fetchall()]
                connection.execute("ALTER TABLE audit_events DISABLE TRIGGER ALL")
                connection.execute("DELETE FROM audit_events WHERE position = 3")
                for trigger in triggers:
                    connection.execute(f"ALTER TABLE audit_events ENABLE ALWAYS TRIGGER {trigger}".encode())
            else:
                connection.execute(damage.encode())
        yield
    finally:
        server.execute("DROP DATABASE damaged WITH (FORCE)")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("remove event", "events are missing"),
        ("DROP TRIGGER audit ON users", "Changes may not be recorded"),
        ("ALTER TABLE sessions DISABLE TRIGGER audit", "Changes may not be recorded"),
        ("GRANT DELETE ON audit_events TO voiceassist_app", "could change or bypass the audit trail"),
        ("DELETE FROM django_migrations WHERE app = 'core' AND name LIKE '0010%'", "1 migrations of this code"),
        ("INSERT INTO django_migrations (app, name, applied) VALUES ('core', '9999_later', now())", "9999_later"),
        ("ALTER TABLE messages ADD CONSTRAINT later CHECK (tokens < 9) NOT VALID", "is not validated"),
        ("SET session_replication_role = replica; DELETE FROM sessions", "violates foreign key constraint"),
    ],
)  # fmt: skip
def test_damaged_database_is_found(server: BackedUpPostgres, dump: Path, damage: str, text: str) -> None:
    with damaged(server, damage):
        server.script("backup.sh", "dump", PGDATABASE="damaged")
        backup = max((server.target / "dump").glob("2*Z"))
        fails(server.drill(backup, check=False), text)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("SET session_replication_role = replica; DELETE FROM sessions", "Rows of messages violate the constraint"),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'audit_events_time'::regclass", "is invalid"),
    ],
)
def test_damage_that_only_a_base_backup_contains_is_found(server: BackedUpPostgres, damage: str, text: str) -> None:
    """`pg_restore` checks foreign keys and builds indexes again."""
    with damaged(server, damage):
        with server.receiving_wal():
            server.script("backup.sh", "base", PGDATABASE="damaged")
        backup = max((server.target / "base").glob("2*Z"))
        fails(server.drill(backup, check=False), text)


# What is left behind


def servers_in(folder: Path) -> list[int]:
    """Return the processes that have a data folder below `folder`."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or [])
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_drill_stops_the_server_and_removes_the_data(
    server: BackedUpPostgres, base: Path, folder: Path, number: signal.Signals, code: int
) -> None:
    process = server.start_drill(base, TMPDIR=str(folder))
    assert succeeds_within(60, lambda: any(folder.glob("*/restored/data/postmaster.pid")))
    os.killpg(process.pid, number)  # as Ctrl-C does
    process.communicate(timeout=60)
    assert process.returncode == code
    assert list(folder.iterdir()) == []
    assert servers_in(folder) == []


def test_next_drill_removes_what_a_killed_one_left(
    server: BackedUpPostgres, base: Path, dump: Path, folder: Path
) -> None:
    process = server.start_drill(base, TMPDIR=str(folder))
    assert succeeds_within(60, lambda: any(folder.glob("*/restored/data/postmaster.pid")))
    process.kill()
    process.communicate(timeout=10)
    assert list(folder.iterdir())
    server.drill(dump, TMPDIR=str(folder))
    assert list(folder.iterdir()) == []
    assert servers_in(folder) == []


def test_success_that_can_not_be_recorded_is_a_failure(server: BackedUpPostgres, dump: Path) -> None:
    before = verified(server, dump)
    server.execute("REVOKE UPDATE ON backups FROM voiceassist_app")
    try:
        done = server.drill(dump, check=False)
    finally:
        server.execute("GRANT UPDATE ON backups TO voiceassist_app")
    assert done.returncode == 1
    assert "The success could not be recorded" in done.stderr
    assert verified(server, dump) == before


def test_programs_of_another_version_are_refused() -> None:
    names = [field.name for field in dataclasses.fields(Manifest)]
    values: dict[str, Any] = dict.fromkeys(names, None) | {"postgresql_version": "15.4"}
    with pytest.raises(DrillError, match=r"PATH has PostgreSQL 18.*the backup is of version 15\.4"):
        throwaway.check_programs(Manifest(**values))
