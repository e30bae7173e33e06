"""The tasks that run at fixed times. Each has one row, which is queued again after each run, so no leader is needed."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db.models import Q
from django.db.models.functions import Now

from core.models import Job


class Entry(NamedTuple):
    task: str  # dotted path
    interval: timedelta
    offset: timedelta = timedelta(0)  # after the start of the day in UTC, for daily tasks


_DAY = timedelta(days=1)
SCHEDULE = (
    Entry("core.tasks.write_audit_checkpoints", timedelta(seconds=30)),
    Entry("core.tasks.clear_web_sessions", _DAY, timedelta(hours=3)),
    Entry("core.tasks.clear_login_attempts", _DAY, timedelta(hours=3, minutes=10)),
    Entry("core.tasks.clear_finished_jobs", _DAY, timedelta(hours=3, minutes=20)),
    Entry("core.tasks.clear_exports", _DAY, timedelta(hours=3, minutes=30)),
)
# Only in workers that have the backups and their key (`manage.py worker --drill`). The others leave its job to them.
VERIFY_BACKUP = Entry("core.tasks.verify_backup", timedelta(days=7), timedelta(hours=4))
_added: list[Entry] = []  # to the schedule of this worker
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# A job that is overdue by this time is known to no worker, so it was removed from the schedule.
_MAX_DELAY = timedelta(minutes=5)


def add(entry: Entry) -> None:
    """Let this worker run a task that needs what other workers lack."""
    _added.append(entry)


def find(task: str) -> Entry | None:
    """Return the entry of a task, if this worker runs it."""
    return next((entry for entry in (*SCHEDULE, *_added) if entry.task == task), None)


def next_run(task: str, after: datetime) -> datetime:
    """Return the next time of a scheduled task after its last start. Raise ValueError if this worker does not run it.

    It is in the past if a run took longer than the interval. Times that passed while no worker ran are skipped.
    """
    entry = find(task)
    if entry is None:
        raise ValueError(f"{task} is not scheduled")
    start = _EPOCH + entry.offset
    return start + ((after - start) // entry.interval + 1) * entry.interval


def store_schedule() -> None:
    """Store a job for each task of the schedule that has none. It is due immediately.

    Remove the jobs of tasks that are no longer scheduled. A job that another release has added is not removed, because
    the workers of that release run it.
    """
    names = {entry.task for entry in (*SCHEDULE, *_added)}
    scheduled = Job.objects.filter(is_scheduled=True)
    missing = names - set(scheduled.values_list("task", flat=True))
    new = (Job(task=name, is_scheduled=True, run_after=Now()) for name in sorted(missing))
    Job.objects.bulk_create(new, ignore_conflicts=True)
    overdue_since = Now() - _MAX_DELAY
    is_abandoned = Q(status=Job.Status.QUEUED, run_after__lt=overdue_since) | Q(leased_until__lt=overdue_since)
    scheduled.exclude(task__in=names).filter(is_abandoned).delete()
