"""Archive old audit events, verify the archive, and remove the events with the SQL of docs/PROCEDURES.md."""

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyrage
import pytest
from django.core.management import CommandError, call_command

from core import audit_archive
from core.audit_checkpoints import Checkpoint
from core.audit_verification import logged_digests, verify
from tests.docs.markdown import FENCE, ROOT
from tests.security.databases import Connection, manage
from tests.security.test_audit_checkpoints import add_events, checkpoint, log_line
from tests.support import age
from tests.support.dependency_servers import as_owner
from voiceassist.embedded.programs import clean_environment, postgres_program

SECTION = "## Archive the audit trail"


def documented_sql() -> str:
    page = (ROOT / "docs" / "PROCEDURES.md").read_text()
    section = re.sub(r"^   ", "", page[page.index(SECTION) :], flags=re.MULTILINE)  # it is in a list
    [sql] = [code for _, language, code in FENCE.findall(section) if language == "sql"]
    return str(sql)


@pytest.fixture
def checkpoints(application: Connection) -> list[Checkpoint]:
    written = []
    for _ in range(3):
        add_events(application, 3)
        written += checkpoint(application)
    return written


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "key.txt"
    (tmp_path / "recipient").write_text(age.new_identity(path))
    return path


def archive(
    database: str, tmp_path: Path, *options: str, name: str = "audit.age"
) -> "subprocess.CompletedProcess[str]":
    recipient = (tmp_path / "recipient").read_text()
    arguments = ("--before", "2100-01-01", "--recipient", recipient, "--output", str(tmp_path / name))
    return manage("archive_audit", *arguments, *options, url=as_owner(database))


def decrypt(tmp_path: Path, name: str = "audit.age") -> str:
    key = pyrage.x25519.Identity.from_str((tmp_path / "key.txt").read_text().strip())
    return pyrage.decrypt((tmp_path / name).read_bytes(), [key]).decode()


def remove(database: str, digest: str) -> str:
    """Run the documented SQL as the owner of the tables. Return what psql printed."""
    command = [
        postgres_program("psql"),
        "--no-psqlrc",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        f"digest={digest}",
        as_owner(database),
    ]
    done = subprocess.run(command, input=documented_sql(), capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def problems(connection: Connection, archived: str | None = None, log: list[Checkpoint] | None = None) -> list[str]:
    *_, result = verify(connection, logged_digests(map(log_line, log or ())), archived=archived)
    return result.problems


def test_archived_events_can_be_removed(
    database: str, application: Connection, checkpoints: list[Checkpoint], identity: Path, tmp_path: Path
) -> None:
    done = archive(database, tmp_path)
    assert done.returncode == 0, done.stderr
    digest = checkpoints[-1].digest
    total = sum(item.events for item in checkpoints)
    assert f"{total} events of checkpoints 1 to 3, encrypted." in done.stdout and digest in done.stdout
    plain = tmp_path / "audit.jsonl"
    plain.write_text(decrypt(tmp_path))
    log = tmp_path / "log"
    log.write_text("\n".join(map(log_line, checkpoints)))
    call_command("verify_archive", str(plain), "--log", str(log))

    assert f"DELETE {total}\n" in remove(database, digest)
    later = checkpoint(application)  # covers the event that records the archive
    assert problems(application)[2].endswith("3 of 3 events are missing.")
    assert problems(application, digest, [*checkpoints, *later]) == []
    assert audit_archive.last_recorded(application) == digest
    verified = manage("verify_audit", "--archived", digest, url=database)
    assert verified.returncode == 0
    assert f"{total} older events are in an archive (--archived) and were not read." in verified.stdout
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege)  # the trigger protects the trail again
    with psycopg.connect(as_owner(database)) as tables_owner, refused:
        tables_owner.execute("DELETE FROM audit_events")

    # The next archive continues.
    done = archive(database, tmp_path, name="second.age")
    assert done.returncode == 1 and "name its last digest in --archived" in done.stderr
    assert audit_archive.last_recorded(application) == digest  # the failed archive is not recorded as one
    assert not (tmp_path / "second.age").exists()
    done = archive(database, tmp_path, "--archived", digest, name="second.age")
    assert done.returncode == 0, done.stderr
    assert audit_archive.verify(decrypt(tmp_path, "second.age").splitlines(keepends=True), {}).first == 4


def test_unknown_digest_removes_nothing(database: str, application: Connection, checkpoints: list[Checkpoint]) -> None:
    assert "DELETE 0" in remove(database, "0" * 64)
    assert problems(application) == []
    assert problems(application, "0" * 64) == [f"No checkpoint has the digest {'0' * 64}."]


def test_removal_after_the_archive_shows(
    database: str, application: Connection, owner: Connection, checkpoints: list[Checkpoint]
) -> None:
    remove(database, checkpoints[-1].digest)
    [first, second] = problems(application, checkpoints[0].digest)
    assert "Checkpoint 2" in first and "Checkpoint 3" in second


CHANGES: dict[str, Any] = {
    "event changed": lambda lines: [line.replace("eve@", "bob@") for line in lines],
    "event removed": lambda lines: [*lines[:1], *lines[2:]],
    "end cut off": lambda lines: lines[:-1],
    "events added": lambda lines: [*lines, lines[-1]],
    "checkpoint removed": lambda lines: [*lines[:-8], *lines[-4:]],
    "start removed": lambda lines: lines[1:],
    "empty": lambda lines: [],
    "another digest": lambda lines: [lines[0].replace(json.loads(lines[0])["digest"], "0" * 64), *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_archive_is_refused(
    application: Connection, checkpoints: list[Checkpoint], change: str, tmp_path: Path
) -> None:
    previous, chosen = audit_archive.select(application, datetime(2100, 1, 1, tzinfo=UTC), None)
    lines = [line for line, _ in audit_archive.lines(application, previous, chosen)]
    total = sum(item.events for item in checkpoints)
    assert len(lines) == total + 3
    assert json.loads(lines[0])["previous"] == ""  # archives that exist depend on it
    summary = audit_archive.verify(lines, {})
    assert (summary.events, summary.first, summary.last.number) == (total, 1, 3)
    with pytest.raises(audit_archive.ArchiveError):
        audit_archive.verify(CHANGES[change](lines), {})


def test_archive_that_differs_from_the_log_is_refused(application: Connection, checkpoints: list[Checkpoint]) -> None:
    previous, chosen = audit_archive.select(application, datetime(2100, 1, 1, tzinfo=UTC), None)
    lines = [line for line, _ in audit_archive.lines(application, previous, chosen)]
    other = checkpoints[1]._replace(digest="0" * 64)
    for log in ([other], [*checkpoints, other], checkpoints[1:]):
        with pytest.raises(audit_archive.ArchiveError, match="not the only one in the log"):
            audit_archive.verify(lines, logged_digests(map(log_line, log)))


def test_changed_trail_is_not_archived(
    database: str, owner: Connection, checkpoints: list[Checkpoint], identity: Path, tmp_path: Path
) -> None:
    owner.execute("ALTER TABLE audit_events DISABLE TRIGGER ALL; DELETE FROM audit_events WHERE object_id = 'm2'")
    done = archive(database, tmp_path)
    assert done.returncode == 1
    assert "The events of checkpoint 1 were changed or removed. Run verify_audit." in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "age" in path.name] == []


@pytest.mark.parametrize("before", ["yesterday", "2026-13-01", "2001-01-01"])
def test_wrong_date_is_refused(
    database: str, checkpoints: list[Checkpoint], identity: Path, tmp_path: Path, before: str
) -> None:
    recipient = (tmp_path / "recipient").read_text()
    done = manage(
        "archive_audit",
        "--before",
        before,
        "--recipient",
        recipient,
        "--output",
        str(tmp_path / "a"),
        url=as_owner(database),
    )
    assert done.returncode == 1
    assert re.search("not a date|No checkpoint was written before", done.stderr)


def test_encrypted_archive_is_refused(
    database: str, checkpoints: list[Checkpoint], identity: Path, tmp_path: Path
) -> None:
    assert archive(database, tmp_path).returncode == 0
    with pytest.raises(CommandError, match="Decrypt it with age first"):
        call_command("verify_archive", str(tmp_path / "audit.age"))
