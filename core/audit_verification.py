"""Verify the audit trail: compare its events with the checkpoints that are stored, and those with the logged ones."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from core.audit_checkpoints import (
    LOG_MESSAGE,
    NO_CHECKPOINT,
    Checkpoint,
    Connection,
    compute,
    count_impossible,
    count_uncovered,
    read_checkpoints,
)

_BATCH = 1000  # checkpoints per query
Digests = dict[int, set[str]]  # by number of the checkpoint


@dataclass
class Result:
    checkpoints: int = 0
    events: int = 0
    archived: int = 0  # events that were not read, because they are in an archive
    uncovered: int = 0  # events after the last checkpoint
    last: Checkpoint = NO_CHECKPOINT
    problems: list[str] = field(default_factory=list)


def logged_digests(lines: Iterable[str]) -> Digests:
    """Return the digests of the checkpoints in a log in JSON. Other lines are ignored."""
    digests: Digests = defaultdict(set)
    for line in lines:
        if LOG_MESSAGE not in line:
            continue
        try:
            entry = json.loads(line[line.index("{") :])
            if entry["message"] == LOG_MESSAGE:
                digests[int(entry["number"])].add(str(entry["digest"]))
        except (ValueError, KeyError, TypeError):  # cut off, or another program's line that quotes ours
            continue
    return digests


def verify(
    connection: Connection, logged: Digests, digests: Iterable[str] = (), *, archived: str | None = None
) -> Iterator[Result]:
    """Verify every checkpoint. Yield the result so far after each one, and the final result at the end.

    `digests` are of checkpoints whose number is unknown. `archived` is the digest of the last checkpoint in an archive
    (core.audit_archive): up to there events may be missing, but no checkpoint.
    """
    result, unseen = Result(), {*digests, *([archived] if archived else [])}
    last_archived = find_checkpoint(connection, archived) if archived else NO_CHECKPOINT
    for stored in stored_checkpoints(connection):
        result.problems += _missing(result.last.number + 1, stored.number, logged)
        if stored.number > last_archived.number:
            result.problems += _differences(connection, result.last, stored)
        if stored.digest not in logged.get(stored.number, {stored.digest}):
            result.problems.append(f"{_name(stored)}: its digest is not the logged one, so it was replaced.")
        if len(logged.get(stored.number, ())) > 1:
            result.problems.append(f"{_name(stored)}: logged with several digests, so an earlier one was removed.")
        unseen.discard(stored.digest)
        result.checkpoints += 1
        if stored.number > last_archived.number:
            result.events += stored.events
        else:
            result.archived += stored.events
        result.last = stored
        yield result
    result.problems += _missing(result.last.number + 1, max(logged, default=0) + 1, logged)
    result.problems += [f"No checkpoint has the digest {digest}." for digest in sorted(unseen)]
    if false_checkpoints := list(read_checkpoints(connection, "WHERE number < 1 LIMIT 1")):
        result.problems.append(f"{_name(false_checkpoints[0])}: the server starts with number 1, so it was added.")
    if impossible := count_impossible(connection):
        result.problems.append(f"{impossible} events have a position that the database never gave, so they were added.")
    result.uncovered = count_uncovered(connection, result.last)
    yield result


def find_checkpoint(connection: Connection, digest: str) -> Checkpoint:
    """Return the checkpoint with a digest, NO_CHECKPOINT if there is none."""
    return next(read_checkpoints(connection, "WHERE digest = %s ORDER BY number LIMIT 1", digest), NO_CHECKPOINT)


def stored_checkpoints(connection: Connection, number: int = 0) -> Iterator[Checkpoint]:
    """Yield the checkpoints after the one with a number."""
    condition = f"WHERE number > %s ORDER BY number LIMIT {_BATCH}"
    while batch := list(read_checkpoints(connection, condition, number)):
        yield from batch
        number = batch[-1].number


def _missing(expected: int, number: int, logged: Digests) -> list[str]:
    """Return the problem that the checkpoints from `expected` to before `number` are missing, if there are any."""
    if expected >= number:
        return []
    last = f" to {number - 1}" if number - 1 > expected else ""
    logged_ones = sum(expected <= known < number for known in logged)
    return [f"Checkpoint {expected}{last}: missing from the database; {logged_ones} of them in the log."]


def _differences(connection: Connection, last: Checkpoint, stored: Checkpoint) -> Iterator[str]:
    if stored.number != last.number + 1:  # the digest of the previous checkpoint is unknown
        return
    found = compute(connection, last, stored, has_limit=False)
    place = f"{_name(stored)}, {_range(last, stored)}"
    if found.events < stored.events:
        yield f"{place}: {stored.events - found.events} of {stored.events} events are missing."
    elif found.events > stored.events:
        yield f"{place}: {found.events - stored.events} events were added to {stored.events}."
    elif found.digest != stored.digest:
        yield f"{place}: the {stored.events} events or the checkpoint were changed."


def _name(checkpoint: Checkpoint) -> str:
    return f"Checkpoint {checkpoint.number}"


def _range(last: Checkpoint, stored: Checkpoint) -> str:
    since = f"from {last.created_at:%Y-%m-%d %H:%M:%S} " if last.number else ""
    return f"recorded {since}until {stored.created_at:%Y-%m-%d %H:%M:%S} UTC"
