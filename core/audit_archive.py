"""Archives of the audit trail: the events of old checkpoints as text, from which their digests can be computed again.

An archive has one line of JSON for each checkpoint, followed by one line for each of its events: the text that the
digest covers. So it can be verified without the database, and compared with the digests in the log
(core.audit_verification). docs/PROCEDURES.md describes how the owner of the tables removes archived events.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.audit_checkpoints import NO_CHECKPOINT, Checkpoint, Connection, read_events, start_digest
from core.audit_verification import Digests, find_checkpoint, stored_checkpoints


class ArchiveError(Exception):
    """An archive can't be written or is not whole. The message says why, and what to do."""


@dataclass
class Summary:
    events: int = 0
    first: int = 0  # number of the first checkpoint
    last: Checkpoint = NO_CHECKPOINT


def select(connection: Connection, before: datetime, archived: str | None) -> tuple[Checkpoint, list[Checkpoint]]:
    """Return the last checkpoint of the previous archive, and those after it that were written before a time."""
    previous = find_checkpoint(connection, archived) if archived else NO_CHECKPOINT
    if archived and previous is NO_CHECKPOINT:
        raise ArchiveError("No checkpoint has the digest in --archived. Use the one that the last archive printed.")
    chosen = []
    for checkpoint in stored_checkpoints(connection, previous.number):
        if checkpoint.created_at >= before:
            break
        chosen.append(checkpoint)
    if not chosen:
        raise ArchiveError("No checkpoint was written before this time. Choose a later one.")
    return previous, chosen


def last_recorded(connection: Connection) -> str | None:
    """Return the last digest of the newest archive that the trail records, None if there is none."""
    row = connection.execute(
        "SELECT changes->'digest'->>1 FROM audit_events WHERE action = 'export' AND changes ? 'digest' "
        "ORDER BY created_at DESC, id DESC LIMIT 1"
    ).fetchone()
    return row and row[0]


def lines(connection: Connection, previous: Checkpoint, chosen: Iterable[Checkpoint]) -> Iterator[tuple[str, int]]:
    """Yield the lines of an archive, each with the number of events in it.

    Raise ArchiveError if the events are not those of the checkpoint.
    """
    for checkpoint in chosen:
        yield f"{json.dumps(_header(previous, checkpoint))}\n", 0
        digest, events = start_digest(checkpoint.number, checkpoint.created_at, previous.digest), 0
        for _, _, text in read_events(connection, previous, checkpoint):
            digest.update(text.encode() + b"\n")
            events += 1
            yield f"{text}\n", 1
        if (events, digest.hexdigest()) != (checkpoint.events, checkpoint.digest):
            raise ArchiveError(
                f"The events of checkpoint {checkpoint.number} were changed or removed. Run verify_audit. If they were "
                "removed after an earlier archive, name its last digest in --archived."
            )
        previous = checkpoint


def _header(previous: Checkpoint, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.number,
        "created_at": checkpoint.created_at.isoformat(),
        "events": checkpoint.events,
        "previous": previous.digest,
        "digest": checkpoint.digest,
    }


def verify(archive: Iterable[str], logged: Digests) -> Summary:
    """Compute the digests of an archive again. Raise ArchiveError if one differs from the archive's or the log's."""
    summary, remaining = Summary(), iter(archive)
    for line in remaining:
        checkpoint, previous = _parse_header(line)
        if summary.first and (checkpoint.number, previous) != (summary.last.number + 1, summary.last.digest):
            raise ArchiveError(f"Checkpoint {checkpoint.number} does not follow {summary.last.number} in the archive.")
        digest = start_digest(checkpoint.number, checkpoint.created_at, previous)
        for _ in range(checkpoint.events):
            digest.update(next(remaining, "").encode())
        if digest.hexdigest() != checkpoint.digest:
            raise ArchiveError(f"The events of checkpoint {checkpoint.number} in the archive were changed or removed.")
        if logged and logged.get(checkpoint.number, set()) != {checkpoint.digest}:
            raise ArchiveError(f"The digest of checkpoint {checkpoint.number} is not the only one in the log.")
        summary.first = summary.first or checkpoint.number
        summary.events += checkpoint.events
        summary.last = checkpoint
    if not summary.first:
        raise ArchiveError("The archive is empty. Decrypt it with age, and pass it to this command.")
    return summary


def _parse_header(line: str) -> tuple[Checkpoint, str]:
    try:
        header = json.loads(line)
        created_at = datetime.fromisoformat(header["created_at"])
        checkpoint = Checkpoint(
            int(header["checkpoint"]), created_at, 0, NO_CHECKPOINT.last_event, int(header["events"]), header["digest"]
        )
        return checkpoint, str(header["previous"])
    except (ValueError, KeyError, TypeError):
        raise ArchiveError("This is not an archive, or lines were added. Decrypt it with age first.") from None
