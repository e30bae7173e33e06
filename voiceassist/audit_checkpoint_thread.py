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

from core.audit_checkpoints import Mark, is_covered, is_settled, take_mark, write_checkpoints
from core.clients.outages import is_outage
from health.multiprocess import runtime_folder

log = structlog.stdlib.get_logger("voiceassist.audit")

INTERVAL = 30.0  # seconds. Events have a checkpoint after one to two intervals
_MAX_ROUNDS = 20  # without progress, before a warning: 10 minutes
_CALL_TIMEOUT = 10.0  # seconds; reading a batch of events takes about 0.2


def start() -> None:
    threading.Thread(target=_run, name="audit-checkpoints", daemon=True).start()


def _run() -> None:
    lock = _lock_file()
    mark: Mark | None = None
    is_failing = False
    rounds = 0  # since the mark was taken
    while True:
        time.sleep(INTERVAL)
        if not _is_chosen(lock):
            continue
        try:
            previous, mark = mark, write_once(mark)
            rounds = rounds + 1 if mark is previous else 0
            if rounds == _MAX_ROUNDS:
                log.warning(
                    "the audit trail has had no checkpoint for a long time",
                    hint="find the transaction that is open since, in pg_stat_activity and pg_prepared_xacts, or the "
                    "advisory lock in pg_locks; removed events do not show meanwhile",
                )
            is_failing = False
        except psycopg.errors.UndefinedTable:  # before `migrate`
            continue
        except Exception as error:
            if not is_failing:  # log repeated failures once
                details = {"reason": type(error).__name__} if is_outage(error) else {"exc_info": True}
                log.error("writing a checkpoint of the audit trail failed", **details)
            is_failing = True


def write_once(mark: Mark | None) -> Mark:
    """Write checkpoints up to `mark` if it is settled. Return the mark for the next call.

    That is `mark` again if a transaction or another process prevented the checkpoints.
    """
    with closing(connections["default"].open_probe(_CALL_TIMEOUT)) as connection:  # type: ignore[attr-defined]  # ours
        if mark is not None:
            if not is_settled(connection, mark):
                return mark
            for _ in write_checkpoints(connection, mark):
                continue
            if not is_covered(connection, mark):
                return mark
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
