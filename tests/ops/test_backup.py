"""The scripts in `ops/backup`: backups are encrypted and complete, restores are exact, and faults are refused."""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import psycopg
import pytest

from core.database_roles import BACKUP_ROLE
from tests.support.age import new_identity
from tests.support.backups import ROOT, BackedUpPostgres, manifest
from tests.support.dependency_servers import PASSWORD, SUPERUSER, as_owner
from tests.support.full_disk import needs_mounts, with_mounts
from tests.support.polling import succeeds_within
from tests.support.qdrant_server import QdrantServer

CANARY = "canary-of-a-patient"
MESSAGES = "SELECT count(*) FROM messages"


@pytest.fixture(scope="module")
def server() -> Iterator[BackedUpPostgres]:
    """Return a server with some conversations. Its folder has a short path, because sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="backup-"))
    server = BackedUpPostgres(folder)
    try:
        server.start()
        rows = ("--users", "5", "--sessions", "50", "--messages", "500")
        server.manage("seed_demo", *rows, url=server.application_url)
        server.execute(f"UPDATE sessions SET title = '{CANARY}'")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(server: BackedUpPostgres) -> Path:
    """Return a base backup whose WAL has been copied until after it."""
    with server.receiving_wal():
        return server.backup("base")


@pytest.fixture(scope="module")
def dump(server: BackedUpPostgres) -> Path:
    return server.backup("dump")


@pytest.fixture
def into(server: BackedUpPostgres) -> Iterator[Path]:
    """Return a data folder that does not exist yet."""
    path = server.folder.parent / "restored"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def copy(server: BackedUpPostgres, base: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the base backup, with its WAL, that a test may damage."""
    folder = Path(tempfile.mkdtemp(prefix="backup-copy-"))
    shutil.copytree(server.target, folder / "target")
    yield folder / "target" / "base" / base.name
    shutil.rmtree(folder)


def complete_backups(server: BackedUpPostgres) -> set[str]:
    return {str(path.relative_to(server.target)) for path in server.target.glob("*/2*Z")}


def exists(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


def fails(done: Any, *texts: str) -> None:
    """Require a failure that is explained in one line."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    for text in texts:
        assert text.lower() in line.lower()


# What a backup is


def test_files_are_encrypted_and_private(server: BackedUpPostgres, base: Path, dump: Path) -> None:
    files = [path for path in server.target.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    encrypted = [path for path in files if path.suffix == ".age"]
    assert len(encrypted) >= 5
    assert all(path.read_bytes().startswith(b"age-encryption.org/v1\n") for path in encrypted)
    assert not any(CANARY.encode() in path.read_bytes() for path in files)
    # Unencrypted files are removed, except the segment of the WAL that is being received.
    left = {path.name for path in server.staging.rglob("*") if path.is_file()}
    assert {name for name in left if not name.endswith(".partial")} == set()


def test_manifest_describes_the_backup(server: BackedUpPostgres) -> None:
    ((messages,),) = server.fetch(MESSAGES)
    base, dump = server.backup("base"), server.backup("dump")
    for path in (base, dump):
        found = manifest(path)
        assert (found["kind"], found["name"]) == (path.parent.name, path.name)
        assert found["row_counts"]["messages"] == messages > 0
        assert "core.0013_backups" in found["migrations"]
        last = server.fetch("SELECT position, id::text FROM audit_events ORDER BY position DESC LIMIT 1")[0]
        assert (found["last_audit_event"]["position"], found["last_audit_event"]["id"]) == last
        assert found["postgresql_version"].startswith("18.")
    assert manifest(base)["counts_lsn"]
    recorded = server.fetch("SELECT kind, name FROM backups WHERE kind IN ('base', 'dump') AND size > 0")
    assert {(path.parent.name, path.name) for path in (base, dump)} <= set(recorded)


def test_rows_are_counted_although_transactions_are_running(server: BackedUpPostgres) -> None:
    ((messages,),) = server.fetch(MESSAGES)
    with psycopg.connect(server.url) as connection:
        connection.execute("UPDATE users SET specialty = specialty")
        backup = server.backup("base")
    assert manifest(backup)["counts_lsn"] is None
    assert manifest(backup)["row_counts"]["messages"] == messages > 0
    done = server.drill(backup)
    assert "not compared, because transactions were running" in done.stdout


def test_role_of_the_backups_changes_nothing_else(server: BackedUpPostgres) -> None:
    with psycopg.connect(server.backup_url, autocommit=True) as connection:
        for statement in (
            "DELETE FROM backups", "TRUNCATE backups", "UPDATE users SET email = ''", "DELETE FROM audit_events",
            "INSERT INTO sessions (id) VALUES (gen_random_uuid())", "CREATE TABLE public.other ()", "CREATE ROLE eve",
            "ALTER SYSTEM SET log_statement = 'all'", "COPY users TO PROGRAM 'cat'",
            "SELECT pg_read_file('/etc/passwd')", "SET ROLE voiceassist_migrate", "SELECT pg_switch_wal()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
    query = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = %s"
    assert server.fetch(query, BACKUP_ROLE) == [(False, False, False, False, True)]


# Restore


def test_base_backup_is_restored_to_the_latest_and_to_a_point_in_time(
    server: BackedUpPostgres, into: Path, base: Path
) -> None:
    with server.receiving_wal():
        server.wait_for_wal()
        ((messages,),) = server.fetch(MESSAGES)
        ((before,),) = server.fetch("SELECT clock_timestamp()::text")
        time.sleep(0.01)
        server.execute("DELETE FROM messages WHERE session_id = (SELECT session_id FROM messages LIMIT 1)")
        ((left,),) = server.fetch(MESSAGES)
        assert left < messages
    data, moved = server.data, server.data.with_name("lost")
    server.kill()
    data.rename(moved)
    try:
        for options, expected in (((), left), (("--to", before), messages)):
            done = server.script("restore.sh", base, "--identity", server.identity, "--into", into, *options)
            assert f"Restored {into}. The last change is of 20" in done.stderr
            into.rename(data)
            server.start()
            assert server.fetch(MESSAGES) == [(expected,)]
            assert server.manage("migrate", "--check", url=as_owner(server.url)).returncode == 0
            server.manage("checkpoint_audit", url=server.application_url)
            assert "No difference in" in server.manage("verify_audit", url=server.application_url).stdout
            assert server.manage("checkdeps", "--only", "postgres", url=server.application_url).returncode == 0
            server.kill()
            shutil.rmtree(data)
    finally:
        moved.rename(data)
        server.start()


def test_dump_is_restored_with_roles_owner_and_privileges(server: BackedUpPostgres, dump: Path) -> None:
    variables: dict[str, Any] = {
        "PGUSER": SUPERUSER,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": "fresh",
        "BACKUP_PASSWORD_FILE": "",
    }
    server.execute("CREATE DATABASE fresh TEMPLATE template0")
    url = server.url.replace("/tests", "/fresh")
    try:
        done = server.script("restore.sh", dump, "--identity", server.identity, **variables)
        assert "Restored the database fresh as it was at" in done.stderr
        again = server.script("restore.sh", dump, "--identity", server.identity, check=False, **variables)
        fails(again, "The database is not empty. Nothing was changed.")
        with psycopg.connect(url) as connection:
            counts = manifest(dump)["row_counts"]
            for table, count in counts.items():
                assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (count,), table
        fresh_application = server.application_url.replace("/tests", "/fresh")
        assert server.manage("migrate", "--check", url=as_owner(url)).returncode == 0
        assert server.manage("checkdeps", "--only", "postgres", url=fresh_application).stderr == ""
        server.manage("checkpoint_audit", url=fresh_application)
        server.manage("verify_audit", url=fresh_application)
    finally:
        server.execute("DROP DATABASE fresh WITH (FORCE)")


def test_only_rows_into_a_migrated_database_falsify_the_trail(server: BackedUpPostgres, tmp_path: Path) -> None:
    """The reason for restoring into an empty database only."""
    server.execute("CREATE DATABASE falsified")
    url = server.url.replace("/tests", "/falsified")
    try:
        server.manage("migrate", "--verbosity", "0", url=as_owner(url))
        events = "SELECT count(*) FROM audit_events WHERE \"table\" = 'users' AND action = 'create'"
        server.copy_rows("users", "falsified")
        with psycopg.connect(url) as connection:
            assert connection.execute(events.encode()).fetchone() == (5,)  # creations that never happened
    finally:
        server.execute("DROP DATABASE falsified WITH (FORCE)")


def test_restore_refuses_a_folder_with_content_and_a_wrong_identity(
    server: BackedUpPostgres, base: Path, into: Path, tmp_path: Path
) -> None:
    into.mkdir()
    (into / "PG_VERSION").touch()
    done = server.script("restore.sh", base, "--identity", server.identity, "--into", into, check=False)
    fails(done, "is not empty. Nothing was changed.")
    assert [path.name for path in into.iterdir()] == ["PG_VERSION"]
    shutil.rmtree(into)
    new_identity(tmp_path / "other")
    fails(server.script("restore.sh", base, "--identity", tmp_path / "other", "--into", into, check=False), "identity")
    assert not into.exists()


def test_restore_refuses_a_mount_point(server: BackedUpPostgres, base: Path) -> None:
    """It would fail after the whole recovery, because the folder is replaced."""
    done = server.script("restore.sh", base, "--identity", server.identity, "--into", "/proc", check=False)
    fails(done, "/proc is a mount point, which can't be replaced.")


def test_restore_without_the_wal_has_to_be_asked_for(server: BackedUpPostgres, copy: Path, into: Path) -> None:
    wal = copy.parents[1] / "wal"
    shutil.rmtree(wal)
    options = (copy, "--identity", server.identity, "--into", into)
    fails(server.script("restore.sh", *options, check=False), f"{wal} can't be read, so the changes after the backup")
    assert not into.exists()
    wal.mkdir()
    wal.chmod(0o755)
    server.script("restore.sh", *options)
    assert into.exists()


def test_wal_that_becomes_unreadable_is_not_its_end(server: BackedUpPostgres, base: Path, tmp_path: Path) -> None:
    target = tmp_path / "segment"
    command = server.command_of("fetch_wal.sh", tmp_path / "gone", server.identity, "0" * 24, target)
    done = server.run_command(command)
    assert (done.returncode, done.stderr) == (126, f"fetch_wal.sh: {tmp_path / 'gone'} can't be read\n")


def test_wal_of_a_replaced_server_is_used_for_its_own_backups(server: BackedUpPostgres, copy: Path, into: Path) -> None:
    """The new server's segments have the same names."""
    wal = copy.parents[1] / "wal"
    wal.rename(wal.with_name(f"wal.{manifest(copy)['system_identifier']}"))
    wal.mkdir()
    wal.chmod(0o755)
    server.script("restore.sh", copy, "--identity", server.identity, "--into", into)
    log = (into / "pg_wal").glob("*")
    assert any(path.name[8:24] > manifest(copy)["start_wal"][8:] for path in log)


def test_restore_passes_a_raised_limit_of_the_server(server: BackedUpPostgres, into: Path) -> None:
    with server.receiving_wal():
        base = server.backup("base")
        server.execute("ALTER SYSTEM SET max_connections = 333")
        try:
            server.stop()
            server.start()
            server.execute("UPDATE users SET specialty = 'Neurology'")
            server.wait_for_wal()
        finally:
            server.execute("ALTER SYSTEM RESET max_connections")
    server.script("restore.sh", base, "--identity", server.identity, "--into", into)
    server.drill(base)


@pytest.mark.parametrize("name", ["base.tar.gz.age", "manifest.json", "wal"])
def test_restore_refuses_a_changed_byte(server: BackedUpPostgres, copy: Path, into: Path, name: str) -> None:
    start = manifest(copy)["start_wal"][8:]
    needed = (path for path in (copy.parents[1] / "wal").glob("*.age") if path.name[8:24] >= start)
    path = min(needed) if name == "wal" else copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = server.script("restore.sh", copy, "--identity", server.identity, "--into", into, check=False)
    assert done.returncode == 1
    assert f"checksums failed: error: {path.name}: FAILED" in done.stderr
    assert not into.exists()


def test_damaged_newest_wal_is_named_and_can_be_left_out(server: BackedUpPostgres, copy: Path, into: Path) -> None:
    (newest,) = (copy.parents[1] / "wal").glob("*.partial.gz.age")
    newest.write_bytes(newest.read_bytes()[:-100])
    options = (copy, "--identity", server.identity, "--into", into)
    reason = f"fetch_wal.sh: {newest.name} can't be decrypted."
    failed = server.script("restore.sh", *options, check=False)
    assert f"The recovery failed: {reason} Nothing was restored." in failed.stderr
    assert f"The backup is not proven. {reason}" in server.drill(copy, check=False).stderr
    assert not into.exists()
    newest.unlink()
    server.script("restore.sh", *options)
    assert into.exists()


def test_times_without_a_meaning_are_refused(server: BackedUpPostgres, base: Path, into: Path) -> None:
    arguments = (base, "--identity", server.identity, "--into", into, "--to", "half past ten")
    fails(server.script("restore.sh", *arguments, check=False), "--to needs a time, such as '2026-11-27 10:00Z'.")


def test_restore_refuses_a_gap_in_the_wal(server: BackedUpPostgres, copy: Path, into: Path) -> None:
    with server.receiving_wal():
        for _ in range(3):
            server.execute("SELECT pg_switch_wal()")
            server.execute("UPDATE users SET specialty = specialty || ''")
            server.wait_for_wal()
    shutil.rmtree(copy.parents[1])
    shutil.copytree(server.target, copy.parents[1])
    start = manifest(copy)["start_wal"]
    later = sorted(path for path in (copy.parents[1] / "wal").glob("*[0-9A-F].gz.age") if path.name[8:24] > start[8:])
    later[0].unlink()
    done = server.script("restore.sh", copy, "--identity", server.identity, "--into", into, check=False)
    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert not into.exists()


# The WAL


def test_commits_reach_the_target_without_traffic(server: BackedUpPostgres) -> None:
    """One commit in an idle database is copied within a few intervals, although its segment is almost empty."""
    with server.receiving_wal():
        server.execute("UPDATE users SET specialty = 'Cardiology'")
        server.wait_for_wal()  # fails after a minute


def copied_wal(server: BackedUpPostgres) -> dict[str, int]:
    """Return the time of each copied file by its name."""
    times = {}
    for path in (server.target / "wal").glob("*.gz.age"):
        with suppress(FileNotFoundError):  # the partial file disappears when its segment is complete
            times[path.name] = path.stat().st_mtime_ns
    return times


def test_gap_lasts_until_the_next_base_backup(server: BackedUpPostgres) -> None:
    """Until then the WAL counts as missing, so that the alert fires."""

    def change_and_wait_for_copy() -> None:
        before = copied_wal(server)
        server.execute("UPDATE users SET specialty = 'Oncology'")
        assert succeeds_within(60, lambda: copied_wal(server) != before)

    query = "SELECT max(finished_at) FROM backups WHERE kind = 'wal'"
    with server.receiving_wal():
        flag = server.target / ".base_needed"
        flag.touch()
        change_and_wait_for_copy()  # a time that was being recorded has been recorded before the next copy
        before = server.fetch(query)
        for _ in range(2):  # the time of a copy would be recorded before the next copy
            change_and_wait_for_copy()
        assert server.fetch(query) == before
        fails(server.script("backup.sh", "base", check=False, PGPORT="1"), "Connection refused")
        assert flag.exists()
        server.backup("base")
        assert not flag.exists()


def test_wal_of_another_server_is_kept_apart(server: BackedUpPostgres, base: Path) -> None:
    wal = server.target / "wal"
    number = (wal / ".server").read_text().strip()
    assert number == manifest(base)["system_identifier"]
    before = sorted(path.name for path in wal.glob("*.gz.age"))
    (wal / ".server").write_text("1234\n")
    other = wal.with_name("wal.1234")
    receiver = server.start_script("wal.sh")
    try:
        assert succeeds_within(30, lambda: (server.target / ".base_needed").exists())
        assert set(before) <= {path.name for path in other.glob("*.gz.age")}
        assert succeeds_within(30, lambda: (wal / ".server").read_text().strip() == number)
        # The next backup removes it, because no base backup of that server is left.
        server.backup("base")
        assert not other.exists()
    finally:
        end(receiver)


def test_receiver_survives_a_restart_of_the_server(server: BackedUpPostgres) -> None:
    with server.receiving_wal() as receiver:
        server.stop()
        server.start()
        server.wait_for_wal()
        assert receiver.poll() is None


def test_second_receiver_and_second_backup_are_refused(server: BackedUpPostgres, base: Path) -> None:
    with server.receiving_wal():
        fails(server.script("wal.sh", check=False), "Another wal is running. Nothing was done.")
    before = complete_backups(server)
    with (server.target / ".backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(server.script("backup.sh", "dump", check=False), "Another backup is running. Nothing was done.")
    assert complete_backups(server) == before


# Faults


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"PGPORT": "1"}, "Connection refused"),
        ({"BACKUP_PASSWORD_FILE": "", "PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"BACKUP_PASSWORD_FILE": "/nonexistent"}, "BACKUP_PASSWORD_FILE can't be read"),
        ({"BACKUP_RECIPIENT": ""}, "BACKUP_RECIPIENT is not set"),
        ({"BACKUP_RECIPIENT": "age1wrong"}, "BACKUP_RECIPIENT is not a public key of age"),
        ({"BACKUP_DAYS": "many"}, "BACKUP_DAYS must be a number of days"),
    ],
)
@pytest.mark.parametrize("kind", ["base", "dump"])
def test_fault_is_one_line_and_stores_nothing(
    server: BackedUpPostgres, kind: str, variables: dict[str, Any], text: str
) -> None:
    before = complete_backups(server)
    fails(server.script("backup.sh", kind, check=False, **variables), text)
    assert complete_backups(server) == before
    assert not list(server.target.glob(f"{kind}/.*"))


@needs_mounts
# A dump is encrypted while it is made, so it needs no space for staging.
@pytest.mark.parametrize(("kind", "full"), [("base", "target"), ("base", "staging"), ("dump", "target")])
def test_full_disk_is_one_line_and_stores_nothing(server: BackedUpPostgres, kind: str, full: str) -> None:
    before = complete_backups(server)
    folder = server.target if full == "target" else server.staging
    script = f"mount -t tmpfs -o size=64k,mode=777 none '{folder}'"
    command = with_mounts(script, *server.command_of("backup.sh", kind))
    fails(server.run_command(command), "No space left on device")
    assert complete_backups(server) == before


def test_killed_backup_is_never_complete_and_the_next_one_removes_it(server: BackedUpPostgres) -> None:
    before = complete_backups(server)
    for kind, sign in (("base", "base/.*.partial"), ("dump", "dump/.*.partial")):
        process = server.start_script("backup.sh", kind)
        assert succeeds_within(60, partial(exists, server.target, sign))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        assert complete_backups(server) == before
        assert list(server.target.glob(f"{kind}/.*.partial"))
        # The killed programs have the lock until the last of them has ended.
        subprocess.run(["flock", "--wait", "10", server.target / ".backup.lock", "true"], check=True)
        new = server.backup(kind)
        assert not list(server.target.glob(f"{kind}/.*"))
        assert not list(server.staging.glob("backup.work"))
        before |= {f"{kind}/{new.name}"}


def test_interrupted_backup_leaves_nothing(server: BackedUpPostgres) -> None:
    before = complete_backups(server)
    process = server.start_script("backup.sh", "base")
    assert succeeds_within(60, lambda: any(server.target.glob("base/.*.partial")))
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert complete_backups(server) == before
    assert not list(server.target.glob("base/.*.partial"))
    assert not (server.staging / "backup.work").exists()


def test_second_backup_in_the_same_second_gets_a_name_of_its_own(server: BackedUpPostgres, dump: Path) -> None:
    before = complete_backups(server)
    programs = server.folder.parent / "programs"
    programs.mkdir()
    date = programs / "date"  # which first returns the time of the older backup
    date.write_text(f"""#!/bin/sh
        if [ "$2" = +%Y%m%dT%H%M%SZ ] && mkdir {server.staging}/asked 2>/dev/null; then echo {dump.name}
        else exec {shutil.which("date")} "$@"; fi
    """)
    date.chmod(0o755)
    server.script("backup.sh", "dump", PATH=f"{programs}:{server.environment['PATH']}")
    (server.staging / "asked").rmdir()  # which shows that it was asked
    assert len(complete_backups(server)) == len(before) + 1
    assert {path.name for path in dump.iterdir()} == {"manifest.json", "database.dump.age", "SHA256SUMS"}


# Retention


def test_expired_backups_are_removed_except_the_newest_and_the_verified(server: BackedUpPostgres, base: Path) -> None:
    target, original = server.target, server.target.with_name("target.original")
    shutil.copytree(target, original)
    try:
        for name in ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z"):
            shutil.copytree(base, target / "base" / name)
        for path in target.glob("base/20200103*/manifest.json"):
            values = json.loads(path.read_text())
            path.write_text(path.read_text().replace(values["start_wal"], "000000010000000000000000"))
        shutil.copytree(base, target / "dump" / "20200101T000000Z")  # the newest dump
        for dump_ in target.glob("dump/202[1-9]*"):
            shutil.rmtree(dump_)
        server.execute("UPDATE backups SET verified_at = NULL")
        server.execute(
            "INSERT INTO backups (kind, name, started_at, finished_at, size, product_version, verified_at)"
            " VALUES ('base', '20200102T000000Z', '2020-01-02', '2020-01-02', 1, '0.1.0', now())"
        )
        wal = target / "wal"
        (wal / "000000010000000000000000.gz.age").touch()  # older than all base backups that are left
        (wal / "000000010000000000000000.gz.age.sha256").touch()
        needed = {path.name for path in wal.iterdir() if path.name[8:24] >= manifest(base)["start_wal"][8:]}
        server.backup("base")
        left = {path.name for path in target.glob("base/2020*")}
        assert left == {"20200102T000000Z"}
        assert [path.name for path in target.glob("dump/2*")] == ["20200101T000000Z"]
        assert needed <= {path.name for path in wal.iterdir()}
        assert not (wal / "000000010000000000000000.gz.age").exists()
        assert not (wal / "000000010000000000000000.gz.age.sha256").exists()
    finally:
        server.execute("DELETE FROM backups WHERE name LIKE '2020%'")
        shutil.rmtree(target)
        original.rename(target)


# Qdrant


@pytest.mark.parametrize("collections", [[], ["guidelines", "notes 2026 ü"]])
def test_snapshot_of_each_collection_is_stored(server: BackedUpPostgres, collections: list[str]) -> None:
    with QdrantServer(api_key="the key") as qdrant:
        qdrant.collections = dict.fromkeys(collections)
        (server.folder / "key").write_text("the key\n")
        variables: dict[str, Any] = {"QDRANT_URL": qdrant.url, "QDRANT_API_KEY_FILE": str(server.folder / "key")}
        server.script("backup.sh", "qdrant", **variables)
        assert qdrant.snapshots == []  # they would fill Qdrant's disk
    backup = max(server.target.glob("qdrant/2*"))
    assert manifest(backup)["collections"] == len(collections)
    contents = {unquote(path.name): server.decrypt(path) for path in backup.glob("*.age")}
    assert contents == {f"{name}.snapshot.age": f"snapshot of {name}".encode() for name in collections}
    assert (backup.name,) in server.fetch("SELECT name FROM backups WHERE kind = 'qdrant'")
    time.sleep(1)  # the next backup gets another name


@pytest.mark.parametrize(("key", "fault"), [("wrong", None), ("the key", "truncated"), ("the key", "500")])
def test_qdrant_fault_is_one_line_and_stores_nothing(server: BackedUpPostgres, key: str, fault: str | None) -> None:
    before = complete_backups(server)
    with QdrantServer(api_key="the key") as qdrant:
        qdrant.fault = fault
        done = server.script("backup.sh", "qdrant", check=False, QDRANT_URL=qdrant.url, QDRANT_API_KEY=key)
    fails(done, "Listing the collections of Qdrant failed")
    assert complete_backups(server) == before


# The schedule, and the service after a restore


def end(service: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(service.pid, signal.SIGTERM)
    service.communicate(timeout=30)


def newest(server: BackedUpPostgres, kind: str) -> str:
    return max((path.name for path in server.target.glob(f"{kind}/2*Z")), default="")


def test_schedule_takes_what_is_overdue_and_begins_anew_after_a_restore(server: BackedUpPostgres, into: Path) -> None:
    """Uses its own target and data folder, because the restored server writes another timeline."""
    target, data = server.target, server.data
    original, lost = target.with_name("target.original"), data.with_name("lost")
    target.mkdir(exist_ok=True)
    target.rename(original)
    service = server.start_script("schedule.sh")

    def has_backup_after(name: str) -> bool:
        """Start the service again if it has ended, as its container would be."""
        nonlocal service
        if service.poll() is not None:
            service.communicate()
            service = server.start_script("schedule.sh")
        return newest(server, "base") > name

    try:
        assert succeeds_within(60, lambda: newest(server, "base") and newest(server, "dump"))
        base = target / "base" / newest(server, "base")
        server.wait_for_wal()
        ((before,),) = server.fetch("SELECT clock_timestamp()::text")
        for _ in range(3):  # the receiver is segments ahead of the time to which the server is restored
            server.execute("SELECT pg_switch_wal()")
            server.execute("UPDATE users SET specialty = 'Radiology'")
        server.wait_for_wal()
        server.kill()
        data.rename(lost)
        server.script("restore.sh", base, "--identity", server.identity, "--into", into, "--to", before)
        into.rename(data)
        server.start()
        if not exists(target, ".base_needed"):  # the receiver may not have noticed that the server was away
            end(service)
        assert succeeds_within(90, lambda: has_backup_after(base.name))
        server.wait_for_wal()
        assert list((target / "wal").glob("00000002*"))
        server.drill(target / "base" / newest(server, "base"))
    finally:
        end(service)
        server.kill()
        if lost.exists():
            shutil.rmtree(data, ignore_errors=True)
            lost.rename(data)
        shutil.rmtree(target)
        original.rename(target)
        shutil.rmtree(server.staging)
        server.start()
    assert service.returncode == 143


SIMULATION = """
BACKUP_DIR=$1
eval "$(sed -n '/^is_due()/,/^}/p' ops/backup/schedule.sh)"
newest() { printf '%s' "$made"; }
date() { if [ "$*" = '-u +%s' ]; then echo "$now"; else command date "$@"; fi; }
for ((now = 1798761600; now < 1798761600 + 30 * 86400; now += 3600)); do
    if is_due dump "$2"; then
        made=/backups/dump/$(command date -u -d "@$((now + 1))" +%Y%m%dT%H%M%SZ)
        command date -u -d "@$now" '+%d %H:%M'
    fi
done
"""


@pytest.mark.parametrize(
    ("days", "times"), [("7", ["01 00:00", *(f"{day:02} 02:00" for day in (7, 14, 21, 28))]), ("1", None)]
)
def test_backups_are_due_at_two(days: str, times: list[str] | None, tmp_path: Path) -> None:
    """Beginning on the first of January, without any backup."""
    command = ["bash", "-c", SIMULATION, "-", str(tmp_path), days]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == (times or ["01 00:00", *(f"{day:02} 02:00" for day in range(1, 31))])


def processes_of(session: int) -> dict[str, int]:
    """Return the process ids of a session by the name of the program."""
    command = ["ps", "--sid", str(session), "-o", "pid=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = (line.replace(" bash ", " ").split() for line in lines)
    return {Path(program).name: int(pid) for pid, program, *_ in found}


@pytest.mark.parametrize("killed", ["schedule.sh", "wal.sh"])
def test_killed_service_can_be_started_again(server: BackedUpPostgres, killed: str) -> None:
    """No process that it leaves keeps the lock, such as a receiver whose WAL nobody copies, or a long `sleep`."""
    service = server.start_script("schedule.sh", BACKUP_WAL_INTERVAL="240")
    lock = server.target / ".wal.lock"
    try:
        assert succeeds_within(20, lambda: {"pg_receivewal", "wal.sh", "sleep"} <= processes_of(service.pid).keys())
        os.kill(processes_of(service.pid)[killed], signal.SIGKILL)
        command = ["flock", "--wait", "10", str(lock), "true"]
        assert subprocess.run(command, check=False).returncode == 0
        assert "pg_receivewal" not in processes_of(service.pid)
    finally:
        os.killpg(service.pid, signal.SIGKILL)
        service.communicate(timeout=30)


@pytest.fixture
def hanging_backup(server: BackedUpPostgres) -> Iterator["subprocess.Popen[str]"]:
    """Yield schedule.sh while a base backup, which never ends, is running."""
    with tempfile.TemporaryDirectory(prefix="backup-") as programs:
        Path(programs).chmod(0o755)
        stub = Path(programs, "pg_basebackup")
        stub.write_text('#!/bin/sh\nmkdir -p "$2"\ntouch "$2/plain"\nexec sleep 987653\n')
        stub.chmod(0o755)
        (server.target / ".base_needed").touch()
        service = server.start_script("schedule.sh", PATH=f"{programs}:{server.environment['PATH']}")
        try:
            assert succeeds_within(30, lambda: (server.staging / "backup.work" / "files" / "plain").exists())
            yield service
        finally:
            if service.poll() is None:
                os.killpg(service.pid, signal.SIGTERM)
            service.communicate(timeout=60)
            server.backup("base")  # for the tests after this one


def test_stop_during_a_backup_removes_what_is_not_encrypted(
    server: BackedUpPostgres, hanging_backup: "subprocess.Popen[str]"
) -> None:
    """As in a container, only the first process gets the signal."""
    hanging_backup.terminate()
    assert hanging_backup.wait(60) == 143
    assert not (server.staging / "backup.work").exists()
    assert not [process for process in psutil.process_iter(["cmdline"]) if "987653" in (process.info["cmdline"] or [])]
    assert (server.target / ".base_needed").exists()


def test_receiver_that_ends_during_a_backup_is_started_again(
    server: BackedUpPostgres, hanging_backup: "subprocess.Popen[str]"
) -> None:
    first = processes_of(hanging_backup.pid)["wal.sh"]
    os.kill(first, signal.SIGKILL)
    assert succeeds_within(30, lambda: processes_of(hanging_backup.pid).get("wal.sh", first) != first)
    assert succeeds_within(30, lambda: "pg_receivewal" in processes_of(hanging_backup.pid))
    assert (server.staging / "backup.work").exists()


def test_schedule_ends_if_the_wal_can_not_be_received(server: BackedUpPostgres) -> None:
    done = server.script("schedule.sh", check=False, PGPORT="1")
    assert done.returncode == 1
    assert "wal.sh: Creating the replication slot failed: " in done.stderr
    assert "schedule.sh: wal.sh ended, so this ends too." in done.stderr
