"""Change audit events and checkpoints as the owner of the tables, and verify the trail with `verify_audit`."""

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command

from core.audit_checkpoints import (
    _LOCK_ID,
    NO_CHECKPOINT,
    Checkpoint,
    is_settled,
    read_events,
    take_mark,
    write_checkpoints,
)
from core.audit_verification import Result, logged_digests, verify
from tests.security.databases import Connection, connect, connect_as_application, manage
from tests.support.dependency_servers import as_owner
from tests.support.jobs.worker import Worker
from tests.support.polling import succeeds_within
from voiceassist.embedded.programs import clean_environment, postgres_program

EVENT = """
    INSERT INTO audit_events (id, created_at, action, "table", object_id, actor_email, trace_id, changes)
    SELECT gen_random_uuid(), clock_timestamp(), 'reveal', 'messages', 'm' || n, %s, '', '{}'
    FROM generate_series(1, %s) AS n
"""
SUBJECT = "0198c000-0000-7000-8000-000000000000"
DISCLOSURE = EVENT.replace("changes)", "changes, subject_id)").replace(
    "'{}'", f"""'{{"subject": [null, "{SUBJECT}"]}}', '{SUBJECT}'"""
)
UNPROTECTED = "ALTER TABLE audit_events DISABLE TRIGGER ALL; ALTER TABLE audit_checkpoints DISABLE TRIGGER ALL"


def add_events(connection: Connection, count: int = 1, actor: str = "eve@example.org") -> None:
    connection.execute(EVENT, (actor, count))


def checkpoint(connection: Connection) -> list[Checkpoint]:
    mark = take_mark(connection)
    assert succeeds_within(10, lambda: is_settled(connection, mark))
    return list(write_checkpoints(connection, mark))


def verified(connection: Connection, log: list[Checkpoint] | None = None) -> Result:
    *_, result = verify(connection, logged_digests(map(log_line, log or ())))
    return result


def log_line(item: Checkpoint) -> str:
    return json.dumps({"message": "audit checkpoint", "number": item.number, "digest": item.digest})


@pytest.fixture
def log(owner: Connection, application: Connection) -> list[Checkpoint]:
    """Return the checkpoints that the worker wrote, which may not change the trail, as the log has them."""
    written = []
    for actor in ("ann@example.org", "eve@example.org", "ann@example.org"):
        application.execute(DISCLOSURE, (actor, 3))
        written += checkpoint(application)
    assert [item.number for item in written] == [1, 2, 3]
    assert verified(application, written).problems == []
    owner.execute(UNPROTECTED)
    return written


ATTACKS = {
    "DELETE FROM audit_events WHERE actor_email = 'eve@example.org'": "Checkpoint 2, RANGE: 3 of 3 events are missing.",
    "UPDATE audit_events SET actor_email = 'bob@example.org' WHERE actor_email = 'eve@example.org'": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
    "UPDATE audit_events SET subject_id = NULL WHERE actor_email = 'eve@example.org'": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
    "UPDATE audit_events SET session_id = gen_random_uuid() WHERE actor_email = 'eve@example.org'": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
    "UPDATE audit_events SET created_at = created_at + interval '1 us' WHERE actor_email = 'eve@example.org'": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
    "UPDATE audit_events SET position = position - 9 WHERE actor_email = 'eve@example.org'": (
        "Checkpoint 2, RANGE: 3 of 3 events are missing."
    ),
    'INSERT INTO audit_events SELECT gen_random_uuid(), created_at, action, "table", object_id, actor_id, actor_email,'
    " address, trace_id, changes, position FROM audit_events WHERE actor_email = 'eve@example.org'"
    " ORDER BY position DESC, id LIMIT 1 OFFSET 1": "Checkpoint 2, RANGE: 1 events were added to 3.",
    "DELETE FROM audit_checkpoints WHERE number = 2": "Checkpoint 2: missing from the database; 1 of them in the log.",
    "UPDATE audit_checkpoints SET digest = repeat('0', 64) WHERE number = 2": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
    "UPDATE audit_checkpoints SET created_at = created_at - interval '1 day' WHERE number = 2": (
        "Checkpoint 2, RANGE: the 3 events or the checkpoint were changed."
    ),
}


@pytest.mark.parametrize("statement", ATTACKS)
def test_attack_of_the_owner_shows(owner: Connection, log: list[Checkpoint], statement: str) -> None:
    owner.execute(statement.encode())
    for known in (log, None):
        problems = verified(owner, known).problems
        expected = ATTACKS[statement] if known else ATTACKS[statement].replace("1 of them", "0 of them")
        before, _, after = expected.partition("RANGE")
        assert any(problem.startswith(before) and problem.endswith(after) for problem in problems), problems


def test_checkpoint_after_a_missing_one_is_not_accused(owner: Connection, log: list[Checkpoint]) -> None:
    owner.execute("DELETE FROM audit_checkpoints WHERE number = 2")
    assert verified(owner, log).problems == ["Checkpoint 2: missing from the database; 1 of them in the log."]


def test_releases_without_the_new_columns_compute_the_same_digests(owner: Connection, log: list[Checkpoint]) -> None:
    """During a rolling deploy a worker of either release may write a checkpoint or an archive."""
    texts = [json.loads(text) for _, _, text in read_events(owner, NO_CHECKPOINT, log[-1])]
    assert {len(text) for text in texts} == {11}
    assert [text[10] for text in texts if text[3] == "reveal"] == [{"subject": [None, SUBJECT]}] * 9


@pytest.mark.parametrize("first", [1, 2])
def test_rewritten_checkpoints_show_only_in_the_log(owner: Connection, log: list[Checkpoint], first: int) -> None:
    owner.execute("DELETE FROM audit_events WHERE actor_email = 'eve@example.org'")
    owner.execute(f"DELETE FROM audit_checkpoints WHERE number >= {first}".encode())
    rewritten = checkpoint(owner)
    assert verified(owner).problems == []
    assert any("its digest is not the logged one" in problem for problem in verified(owner, log).problems)
    # The worker logs the new ones too.
    assert any("logged with several digests" in problem for problem in verified(owner, log + rewritten).problems)


def test_removed_end_shows_only_in_the_log(owner: Connection, log: list[Checkpoint]) -> None:
    owner.execute("DELETE FROM audit_checkpoints WHERE number = 3")
    owner.execute("DELETE FROM audit_events WHERE position > %s", (log[1].position,))
    assert verified(owner).problems == []
    assert verified(owner, log).problems == ["Checkpoint 3: missing from the database; 1 of them in the log."]


def test_later_events_have_no_checkpoint_yet(owner: Connection, log: list[Checkpoint]) -> None:
    add_events(owner, 2)
    result = verified(owner, log)
    assert (result.problems, result.uncovered, result.checkpoints) == ([], 2, 3)


def test_server_reports_a_checkpoint_that_the_application_forged(
    application: Connection, log: list[Checkpoint]
) -> None:
    application.execute("INSERT INTO audit_checkpoints SELECT 9, created_at, position, last_event, 1, digest"
                        " FROM audit_checkpoints WHERE number = 1")  # fmt: skip
    assert "Checkpoint 4 to 8: missing from the database; 0 of them in the log." in verified(application, log).problems


FALSE_CHECKPOINTS = {
    "highest number": "9223372036854775807, now(), position, last_event, 1, ''",
    "number that verify_audit would not read": "-7, now(), position, last_event, 1, ''",
    "same number": "number, now(), position + 1, last_event, 1, ''",
    "highest position": "number + 1, now(), 9223372036854775807, last_event, 1, ''",
    "earlier position": "number + 1, now(), 0, last_event, 1, ''",
    "infinite time": "number + 1, 'infinity', position + 1, last_event, 1, ''",
    "time before Christ": "number + 1, '0044-03-15 BC', position + 1, last_event, 1, ''",
    "negative number of events": "number + 1, now(), position + 1, last_event, -1, ''",
}


@pytest.mark.parametrize("kind", FALSE_CHECKPOINTS)
def test_application_cannot_stop_the_checkpoints_with_a_false_one(application: Connection, kind: str) -> None:
    add_events(application, 3)
    written = checkpoint(application)
    add_events(application, 3)
    query = f"INSERT INTO audit_checkpoints SELECT {FALSE_CHECKPOINTS[kind]} FROM audit_checkpoints"
    with pytest.raises(psycopg.errors.CheckViolation, match="does not follow the last one"):
        application.execute(query.encode())
    written += checkpoint(application)
    assert [item.number for item in written] == [1, 2]
    assert verified(application, written).problems == []


def test_false_checkpoint_that_follows_shows_and_the_next_ones_are_written(application: Connection) -> None:
    add_events(application, 3)
    checkpoint(application)
    add_events(application, 3)
    application.execute(
        "INSERT INTO audit_checkpoints SELECT 2, now(), position + 2, last_event, 2, '' FROM audit_checkpoints"
    )
    assert [item.number for item in checkpoint(application)] == [3]
    result = verified(application)
    assert len(result.problems) == 1
    assert result.problems[0].startswith("Checkpoint 2, ")
    assert (result.checkpoints, result.uncovered) == (3, 0)


@pytest.mark.parametrize("time", ["infinity", "-infinity", "20000-01-01"])
def test_time_that_python_cannot_load_shows(owner: Connection, log: list[Checkpoint], time: str) -> None:
    owner.execute("UPDATE audit_checkpoints SET created_at = %s WHERE number = 2", (time,))
    assert "Checkpoint 2, " in verified(owner).problems[0]


def test_checkpoint_before_the_first_shows(owner: Connection, log: list[Checkpoint]) -> None:
    owner.execute(
        "INSERT INTO audit_checkpoints SELECT -7, created_at, 0, last_event, 1, '' FROM audit_checkpoints LIMIT 1"
    )
    assert verified(owner).problems == ["Checkpoint -7: the server starts with number 1, so it was added."]


@pytest.mark.parametrize("position", [-5, 2**63 - 1])
def test_event_with_an_impossible_position_shows(application: Connection, position: int) -> None:
    forged = EVENT.replace("changes)", "changes, position)").replace("'{}'", f"'{{}}', {position}")
    application.execute(forged, ("eve@example.org", 2))
    add_events(application)
    assert len(checkpoint(application)) == 1
    problems = verified(application).problems
    assert problems == ["2 events have a position that the database never gave, so they were added."]
    add_events(application)
    assert len(checkpoint(application)) == 1


def test_event_whose_time_python_cannot_load_is_refused(application: Connection) -> None:
    """It would break the admin's page of the trail for ever."""
    for time in ("'infinity'", "'-infinity'", "'20000-01-01'"):
        with pytest.raises(psycopg.errors.CheckViolation):
            application.execute(EVENT.replace("clock_timestamp()", time), ("eve@example.org", 1))


# Settled events


def test_event_of_a_long_transaction_is_covered_after_it_ends(database: str, application: Connection) -> None:
    with closing(connect_as_application(database)) as slow:
        with slow.transaction():
            add_events(slow)
            add_events(application)
            mark = take_mark(application)
            assert not is_settled(application, mark)
        assert is_settled(application, mark)
    add_events(application)  # after the mark
    (written,) = write_checkpoints(application, mark)
    assert written.events >= 2
    result = verified(application)
    assert (result.problems, result.uncovered) == ([], 1)


def test_concurrent_writers_never_look_like_an_attack(database: str, application: Connection) -> None:
    """Events become visible out of order, and some transactions are rolled back."""

    def write(worker: int) -> None:
        with closing(connect_as_application(database)) as connection:
            for number in range(40):
                with connection.transaction(force_rollback=number % 5 == worker):
                    add_events(connection)
                    connection.execute("SELECT pg_sleep(random() / 100)")
                    add_events(connection)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    written: list[Checkpoint] = []
    while any(thread.is_alive() for thread in threads):
        written += checkpoint(application)
        assert verified(application, written).problems == []
    written += checkpoint(application)
    result = verified(application, written)
    assert (result.problems, result.uncovered) == ([], 0)
    assert len(written) > 3


def test_only_one_process_writes_at_a_time(database: str, application: Connection) -> None:
    add_events(application)
    mark = take_mark(application)
    with closing(connect_as_application(database)) as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_ID,))
        assert list(write_checkpoints(application, mark)) == []
    assert len(list(write_checkpoints(application, mark))) == 1
    assert list(write_checkpoints(application, mark)) == []  # nothing new


def test_large_trail_is_split(application: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.audit_checkpoints.MAX_EVENTS", 1000)
    monkeypatch.setattr("core.audit_checkpoints._BATCH", 300)
    add_events(application, 2500)
    written = checkpoint(application)
    assert [item.events for item in written[:2]] == [1000, 1000]
    assert len(written) == 3 and sum(item.events for item in written) >= 2500
    result = verified(application, written)
    assert (result.problems, result.checkpoints, result.uncovered) == ([], 3, 0)


def test_reads_all_checkpoints(owner: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one query returns."""
    monkeypatch.setattr("core.audit_verification._BATCH", 2)
    for number in range(5):
        add_events(owner, actor=f"{number}@example.org")
        checkpoint(owner)
    result = verified(owner)
    assert (result.problems, result.checkpoints) == ([], 5)
    owner.execute(UNPROTECTED)
    owner.execute("DELETE FROM audit_events WHERE actor_email = '4@example.org'")
    (problem,) = verified(owner).problems
    assert problem.startswith("Checkpoint 5")


# Old events, backups, commands and the worker


def test_events_from_before_the_migration_are_covered(database: str, owner: Connection) -> None:
    assert manage("migrate", "core", "0006", url=as_owner(database)).returncode == 0
    add_events(owner, 50)
    assert manage("migrate", "--verbosity", "0", url=as_owner(database)).returncode == 0
    (written,) = checkpoint(owner)
    assert written.events >= 50
    assert verified(owner).problems == []
    owner.execute(UNPROTECTED)
    owner.execute("DELETE FROM audit_events WHERE object_id = 'm7'")
    assert "1 of" in verified(owner).problems[0]


def test_restored_backup_has_the_same_digests(database: str, owner: Connection) -> None:
    add_events(owner, 5)
    written = checkpoint(owner)
    run = {"env": clean_environment(), "capture_output": True, "check": True}
    dump = subprocess.run([postgres_program("pg_dump"), database], **run).stdout  # type: ignore[call-overload]
    owner.execute("DROP DATABASE IF EXISTS trail_restored")
    owner.execute("CREATE DATABASE trail_restored")
    restored = database.replace("/trail_attacked", "/trail_restored")
    try:
        subprocess.run([postgres_program("psql"), "-q", "-v", "ON_ERROR_STOP=1", restored], input=dump, **run)  # type: ignore[call-overload]
        with closing(connect(restored)) as connection:
            add_events(connection)
            written += checkpoint(connection)
            assert verified(connection, written).problems == []
            assert len(written) == 2
    finally:
        owner.execute("DROP DATABASE trail_restored WITH (FORCE)")


def test_commands(database: str, owner: Connection) -> None:
    nothing = manage("verify_audit", url=database)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "There is no checkpoint yet." in nothing.stderr
    add_events(owner, 3)
    assert manage("checkpoint_audit", url=database).returncode == 0
    (stored,) = owner.execute("SELECT digest FROM audit_checkpoints").fetchall()
    intact = manage("verify_audit", "--digest", stored[0], url=database)
    assert intact.returncode == 0, intact.stderr
    assert f"digest {stored[0]}. 0 later events" in intact.stdout
    assert "Not compared with a log" in intact.stdout


def test_unknown_digest_shows(application: Connection, log: list[Checkpoint]) -> None:
    *_, result = verify(application, {}, ["0" * 64, log[1].digest])
    assert result.problems == [f"No checkpoint has the digest {'0' * 64}."]


def test_log_without_checkpoints_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('audit checkpoint\n{"message": "audit checkpoint"')
    with pytest.raises(CommandError, match="contains no checkpoint") as error:
        call_command("verify_audit", "--log", str(tmp_path / "log"))
    assert error.value.returncode == 2


@pytest.fixture
def worker(database: str) -> Iterator[Callable[[], list[str]]]:
    """Start a worker that writes checkpoints every second. Return a function that returns the lines of its log."""
    constants = {
        "core.jobs.schedule.SCHEDULE": [["core.tasks.write_audit_checkpoints", 1]],
        "core.tasks._MAX_CHECKPOINT_AGE": 2,
    }
    with Worker(constants=constants, DATABASE_URL=database) as running:
        yield lambda: running.log().splitlines()


@pytest.mark.parametrize("obstacle", ["SELECT pg_current_xact_id()", f"SELECT pg_advisory_xact_lock({_LOCK_ID})"])
def test_worker_warns_when_it_cannot_write_checkpoints(
    database: str, worker: Callable[[], list[str]], obstacle: str
) -> None:
    with closing(connect_as_application(database)) as other, other.transaction():
        other.execute(obstacle.encode())
        with closing(connect_as_application(database)) as connection:
            add_events(connection)
        warning = "the audit trail has had no checkpoint for a long time"
        assert succeeds_within(30, lambda: warning in "\n".join(worker()))
    assert succeeds_within(30, lambda: bool(logged_digests(worker())))


def test_worker_writes_checkpoints_after_a_restore_into_another_server(
    owner: Connection, worker: Callable[[], list[str]]
) -> None:
    """The mark in the job has a transaction id that the new server reaches years later."""
    of_old_server = """
        UPDATE jobs SET result = result || '{"transaction": 999999999999999}'
        WHERE task LIKE '%write_audit_checkpoints' AND status = 'queued' AND result ? 'transaction'
    """
    assert succeeds_within(30, lambda: owner.execute(of_old_server.encode()).rowcount)
    before = len(logged_digests(worker()))
    add_events(owner)
    assert succeeds_within(30, lambda: len(logged_digests(worker())) > before)


def test_worker_writes_checkpoints_to_its_log(
    database: str, owner: Connection, worker: Callable[[], list[str]]
) -> None:
    for _ in range(3):
        before = len(logged_digests(worker()))
        add_events(owner)
        assert succeeds_within(30, lambda: len(logged_digests(worker())) > before)  # noqa: B023
    log = "\n".join(worker())
    entries = [json.loads(line) for line in worker() if '"audit checkpoint"' in line]
    written = owner.execute("SELECT number, events, last_event::text, digest FROM audit_checkpoints").fetchall()
    assert {tuple(entry[name] for name in ("number", "events", "last_event", "digest")) for entry in entries} == {
        *written
    }
    assert manage("verify_audit", "--log", "-", url=database, stdin=log).returncode == 0
    assert "job failed" not in log
    owner.execute(UNPROTECTED)
    owner.execute("DELETE FROM audit_events WHERE object_id = 'm1'")
    changed = manage("verify_audit", "--log", "-", url=database, stdin=log)
    assert (changed.returncode, changed.stdout) == (1, "")
    # A slow machine may write the first checkpoint before the first events.
    assert re.search(r"CommandError: The audit trail was changed\.\nCheckpoint [12], recorded ", changed.stderr)
