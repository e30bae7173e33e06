"""The thread that writes checkpoints of the audit trail, in one worker of each server.

It has its own connection, which it opens for each round, and every call has a time limit. So it delays neither requests
nor readiness while the database does not respond. Several servers take turns by an advisory lock.
"""

import fcntl
import threading
import time
from contextlib import closing
from typing import IO

import psycopg
import structlog
from django.db import connections

from core.audit_checkpoints import Mark, is_settled, take_mark, write_checkpoints
from health.multiprocess import runtime_folder

log = structlog.stdlib.get_logger("voiceassist.audit")

INTERVAL = 30.0  # seconds. Events have a checkpoint after one to two intervals
_CALL_TIMEOUT = 10.0  # seconds; reading a batch of events takes about 0.2


def start() -> None:
    threading.Thread(target=_run, name="audit-checkpoints", daemon=True).start()


def _run() -> None:
    lock = _lock_file()
    mark: Mark | None = None
    is_failing = False
    while True:
        time.sleep(INTERVAL)
        if not _is_chosen(lock):
            continue
        try:
            mark = write_once(mark)
            is_failing = False
        except psycopg.errors.UndefinedTable:  # before `migrate`
            continue
        except Exception:
            if not is_failing:  # log repeated failures once
                log.exception("writing a checkpoint of the audit trail failed")
            is_failing = True


def write_once(mark: Mark | None) -> Mark:
    """Write checkpoints up to `mark` if it is settled. Return the mark for the next call."""
    with closing(connections["default"].open_probe(_CALL_TIMEOUT)) as connection:  # type: ignore[attr-defined]  # ours
        if mark is not None:
            if not is_settled(connection, mark):
                return mark
            for _ in write_checkpoints(connection, mark):
                continue
        return take_mark(connection)


def _lock_file() -> IO[str] | None:
    return (runtime_folder.path / "audit_checkpoints.lock").open("w") if runtime_folder.path else None


def _is_chosen(lock: IO[str] | None) -> bool:
    """Return whether this worker has the lock, which it keeps until it ends."""
    if lock is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
