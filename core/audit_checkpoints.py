"""Checkpoints of the audit trail: digests that make the removal or change of events visible.

A checkpoint has the number of events since the previous one and their digest, which includes the previous digest. It is
stored in `audit_checkpoints` and logged. The owner of the tables can delete events and compute new checkpoints, but not
change the log, if that is stored elsewhere. `core.audit_verification` compares all three.

The digest has no key, so that an auditor needs no secret, and so that `SECRET_KEY` can be changed.

A chain from each event to the previous one would serialise all transactions that write events. Events are covered later
instead, when it is certain that none of their positions can still appear:

1. `take_mark` reads the last position that was given to a transaction, and then takes a transaction id.
2. A transaction has its id before it takes a position (the column's default in migration 0007). So all positions up to
   the mark belong to transactions with lower ids.
3. When no lower id is running, every event up to the mark is either visible or rolled back, however long it took.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog

log = structlog.stdlib.get_logger("voiceassist.audit")

LOG_MESSAGE = "audit checkpoint"
MAX_EVENTS = 100_000  # per checkpoint, so that a difference can be located
_BATCH = 5000  # events per query, of about 500 bytes
# Unique to this lock: the first eight bytes of SHA-256 of "voiceassist audit checkpoint", as a signed integer.
_LOCK_ID = int.from_bytes(hashlib.sha256(b"voiceassist audit checkpoint").digest()[:8], signed=True)
# The text does not depend on settings of the session, and has no line break, which JSON escapes. `changes` repeats
# `subject_id` and `session_id`, so the text covers them, and is the same as in releases without these columns. If they
# differ from it, somebody changed them, and the text contains them.
_EVENTS = """
    SELECT position, id, (jsonb_build_array(position, id, created_at AT TIME ZONE 'UTC', action, "table", object_id,
        actor_id, actor_email, address, trace_id, changes) || CASE
            WHEN subject_id::text IS NOT DISTINCT FROM changes->'subject'->>1
                AND session_id::text IS NOT DISTINCT FROM changes->'session'->>1 THEN '[]'
            ELSE jsonb_build_array(subject_id, session_id) END)::text
    FROM audit_events WHERE (position, id) > (%s, %s) AND (position, id) <= (%s, %s)
    ORDER BY position, id LIMIT %s
"""
# Before the first ANALYZE the planner would read and sort all later events for each batch.
_USE_INDEX = """
    SELECT set_config(name, 'off', true) FROM pg_settings
    WHERE name IN ('enable_seqscan', 'enable_bitmapscan', 'enable_sort')
"""
_LAST_ID = UUID(int=2**128 - 1)


class Mark(NamedTuple):
    position: int
    transaction: int


class Checkpoint(NamedTuple):
    number: int
    created_at: datetime
    position: int  # of the last event
    last_event: UUID
    events: int  # since the previous checkpoint
    digest: str


Connection = psycopg.Connection[Any]
NO_CHECKPOINT = Checkpoint(0, datetime.min.replace(tzinfo=UTC), -1, UUID(int=0), 0, "")


def take_mark(connection: Connection) -> Mark:
    """Return a mark that is settled when all transactions that run now have ended. In autocommit mode only."""
    position = _fetch(connection, "SELECT pg_sequence_last_value('audit_events_position')")
    return Mark(position or 0, _fetch(connection, "SELECT pg_current_xact_id()::text::bigint"))


def is_settled(connection: Connection, mark: Mark) -> bool:
    return bool(
        _fetch(connection, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %s", mark.transaction)
    )


def is_of_other_server(connection: Connection, mark: Mark) -> bool:
    """Return whether this server has not used the mark's transaction id, because the mark was restored from a dump."""
    return bool(
        _fetch(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint <= %s", mark.transaction)
    )


def write_checkpoints(connection: Connection, mark: Mark) -> Iterator[Checkpoint]:
    """Write, log and yield checkpoints of the events up to a settled mark that have none.

    Yield nothing if there are none, or if another process is writing a checkpoint.
    """
    while checkpoint := _write(connection, mark):
        log.info(
            LOG_MESSAGE,
            number=checkpoint.number,
            events=checkpoint.events,
            last_event=str(checkpoint.last_event),
            digest=checkpoint.digest,
        )
        yield checkpoint


def _write(connection: Connection, mark: Mark) -> Checkpoint | None:
    with connection.transaction():
        if not _fetch(connection, "SELECT pg_try_advisory_xact_lock(%s)", _LOCK_ID):
            return None
        last = next(read_checkpoints(connection, "ORDER BY number DESC LIMIT 1"), NO_CHECKPOINT)
        draft = Checkpoint(
            last.number + 1, _fetch(connection, "SELECT clock_timestamp()"), mark.position, _LAST_ID, MAX_EVENTS, ""
        )
        checkpoint = compute(connection, last, draft)
        if not checkpoint.events:
            return None
        connection.execute("INSERT INTO audit_checkpoints VALUES (%s, %s, %s, %s, %s, %s)", checkpoint)
        return checkpoint


def read_checkpoints(connection: Connection, condition: str, *parameters: Any) -> Iterator[Checkpoint]:
    """Yield the checkpoints that a constant SQL condition selects.

    psycopg can't load every time. One that the owner of the table made infinite becomes a finite one, which shows.
    """
    time = "least(greatest(created_at, '0001-01-02Z'), '9999-12-30Z')"
    query = f"SELECT number, {time}, position, last_event, events, digest FROM audit_checkpoints {condition}"
    return (Checkpoint(*row) for row in connection.execute(query.encode(), parameters).fetchall())


def compute(connection: Connection, last: Checkpoint, until: Checkpoint, *, has_limit: bool = True) -> Checkpoint:
    """Return `until` with the number and digest of the events after the checkpoint `last` and up to `until`.

    With `has_limit` it ends after `until.events` events. Without, all events of the range are read, in bounded memory.
    """
    end, events = (last.position, last.last_event), 0
    digest = start_digest(until.number, until.created_at, last.digest)
    for position, event_id, text in read_events(connection, last, until, until.events if has_limit else None):
        digest.update(text.encode() + b"\n")
        end, events = (position, event_id), events + 1
    return until._replace(position=end[0], last_event=end[1], events=events, digest=digest.hexdigest())


def start_digest(number: int, created_at: datetime, previous: str) -> "hashlib._Hash":
    """Return the digest of a checkpoint to which each event and a line feed has to be added."""
    return hashlib.sha256(f"{number} {created_at.astimezone(UTC).isoformat()} {previous}\n".encode())


def read_events(
    connection: Connection, last: Checkpoint, until: Checkpoint, limit: int | None = None
) -> Iterator[tuple[int, UUID, str]]:
    """Yield position, id and text of the events after a checkpoint and up to another one, at most `limit`."""
    position, event_id, events = last.position, last.last_event, 0
    with connection.transaction():
        connection.execute(_USE_INDEX)
        while size := _BATCH if limit is None else min(_BATCH, limit - events):
            rows = connection.execute(_EVENTS, (position, event_id, until.position, until.last_event, size)).fetchall()
            yield from rows
            events += len(rows)
            if len(rows) < size:
                break
            position, event_id = rows[-1][:2]


def count_uncovered(connection: Connection, last: Checkpoint) -> int:
    """Return the number of events after a checkpoint."""
    query = "SELECT count(*) FROM audit_events WHERE (position, id) > (%s, %s)"
    return int(_fetch(connection, query, last.position, last.last_event))


def is_covered(connection: Connection, mark: Mark) -> bool:
    """Return whether all events up to a settled mark have a checkpoint."""
    last = next(read_checkpoints(connection, "ORDER BY number DESC LIMIT 1"), NO_CHECKPOINT)
    query = "SELECT NOT EXISTS (SELECT FROM audit_events WHERE (position, id) > (%s, %s) AND position <= %s)"
    return bool(_fetch(connection, query, last.position, last.last_event, mark.position))


def count_impossible(connection: Connection) -> int:
    """Return the number of events whose position the database never gave, so that no checkpoint covers them."""
    highest = _fetch(connection, "SELECT coalesce(max(position), 0) FROM audit_events")
    given = _fetch(connection, "SELECT coalesce(pg_sequence_last_value('audit_events_position'), 0)")
    query = "SELECT count(*) FROM audit_events WHERE position < 0 OR position BETWEEN %s AND %s"
    return int(_fetch(connection, query, given + 1, highest))


def _fetch(connection: Connection, query: str, *parameters: Any) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return row and row[0]
