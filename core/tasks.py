"""The tasks that run in the background, see `core.jobs`."""

from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.db import connections
from django.db.models import QuerySet
from django.utils import timezone
from django_tasks import task

from core import batched_deletion, drill, exports
from core.audit_checkpoints import Mark, is_covered, is_of_other_server, is_settled, take_mark, write_checkpoints
from core.auth import login_failures
from core.auth.web_sessions import SessionStore
from core.jobs import schedule
from core.jobs.progress import Interrupted, batch, current_job, is_stopping
from core.models import Export, Job
from core.models.exports import MAX_EXPORT_AGE

log = structlog.stdlib.get_logger("voiceassist.tasks")

_MAX_ROWS = 1000  # per transaction
_KEEP_JOBS = timedelta(days=90)
_CHECKPOINT_CALL_TIMEOUT = 10.0  # seconds; reading a batch of events takes about 0.2
_MAX_CHECKPOINT_AGE = timedelta(minutes=10)
_backups: tuple[Path, Path] | None = None  # of `verify_backups_in`


@task()
def write_audit_checkpoints() -> None:
    """Write checkpoints of the audit trail up to the last call's mark, then take a mark for the next call."""
    job = current_job()
    found: dict[str, Any] = job.result
    mark = Mark(found["position"], found["transaction"]) if found else None
    with closing(connections["default"].open_probe(_CHECKPOINT_CALL_TIMEOUT)) as connection:  # type: ignore[attr-defined]  # ours
        if mark is not None and not is_of_other_server(connection, mark):
            is_written = is_settled(connection, mark)
            if is_written:
                for _ in write_checkpoints(connection, mark):
                    continue
                is_written = is_covered(connection, mark)
            if not is_written:
                _warn_if_old(datetime.fromisoformat(found["taken_at"]))
                return
        new_mark = take_mark(connection)
    job.result = {**new_mark._asdict(), "taken_at": timezone.now().isoformat()}


def _warn_if_old(taken_at: datetime) -> None:
    if timezone.now() - taken_at > _MAX_CHECKPOINT_AGE:
        log.warning(
            "the audit trail has had no checkpoint for a long time",
            hint="find the transaction that is open since, in pg_stat_activity and pg_prepared_xacts, or the "
            "advisory lock in pg_locks; removed events do not show meanwhile",
        )


@task()
def clear_web_sessions() -> None:
    """Delete the rows of expired web sessions."""
    _delete(SessionStore.get_model_class().objects.filter(expire_date__lt=timezone.now()))


@task()
def clear_login_attempts() -> None:
    """Delete the counts of failed logins that no longer matter."""
    _delete(login_failures.expired().select_for_update(skip_locked=True))


@task()
def clear_finished_jobs() -> None:
    """Delete the jobs that ended 90 days ago."""
    _delete(Job.objects.filter(finished_at__lt=timezone.now() - _KEEP_JOBS, is_scheduled=False))


def _delete(rows: "QuerySet[Any]", max_rows: int = _MAX_ROWS) -> None:
    """Delete rows in transactions that each take far less than DATABASE_TIMEOUT."""
    keys = rows.order_by().values("pk")[:max_rows]
    deleted = 1
    while deleted:
        with batch() as job:
            deleted = rows.model._default_manager.filter(pk__in=keys).delete()[0]
            job.done += deleted


@task()
def delete_user(user_id: str) -> None:
    """Delete a user with all sessions and messages."""
    for _ in batched_deletion.delete_user(UUID(user_id)):
        continue


@task()
def delete_session(session_id: str) -> None:
    """Delete a session with all messages."""
    for _ in batched_deletion.delete_session(UUID(session_id)):
        continue


@task()
def export_user(user_id: str, export_id: str) -> None:
    """Store the encrypted data of a user. The job is shown on the page of the user `user_id`."""
    exports.store(UUID(export_id))


@task()
def clear_exports() -> None:
    """Delete exports that were asked for more than seven days ago, one per transaction, because each may be large."""
    _delete(Export.objects.filter(created_at__lt=timezone.now() - MAX_EXPORT_AGE), max_rows=1)


def verify_backups_in(folder: Path, identity: Path) -> None:
    """Let this worker prove the newest base backup in BACKUP_DIR every week. `identity` is age's private key."""
    global _backups
    _backups = folder, identity
    schedule.add(schedule.VERIFY_BACKUP)


@task()
def verify_backup() -> None:
    """Restore the newest base backup into a throw-away server, check it, and record the success."""
    assert _backups, "Only workers whose schedule has this task run it."
    folder, identity = _backups
    steps = 0

    def count_step(name: str, seconds: float, detail: str) -> None:
        nonlocal steps
        steps += 1
        with batch() as job:
            # A step that an earlier attempt reached is no progress. Otherwise a backup that is damaged would be
            # restored for ever.
            job.done = max(job.done, steps)

    try:
        outcome = drill.verify(drill.newest_base_backup(folder), identity, count_step)
    except Exception as error:
        if is_stopping.is_set():  # which ended the programs of the drill
            raise Interrupted from None
        if isinstance(error, drill.DrillError):
            log.error("the newest backup is not proven", hint="run manage.py drill BACKUP, which says why")
        raise
    with batch():
        drill.record(outcome)
