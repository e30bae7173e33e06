"""The tasks that run at fixed times. Each has one row, which is queued again after each run, so no leader is needed."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.utils import timezone

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
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def next_run(task: str) -> datetime:
    """Return the next time of a scheduled task. Raise ValueError if it is not scheduled."""
    for entry in SCHEDULE:
        if entry.task == task:
            start = _EPOCH + entry.offset
            return start + ((timezone.now() - start) // entry.interval + 1) * entry.interval
    raise ValueError(f"{task} is not scheduled")


def store_schedule() -> None:
    """Store a job for each task of the schedule that has none, and remove those that are no longer scheduled."""
    names = [entry.task for entry in SCHEDULE]
    Job.objects.filter(is_scheduled=True).exclude(task__in=names).delete()
    Job.objects.bulk_create(
        (Job(task=name, is_scheduled=True, run_after=next_run(name)) for name in names), ignore_conflicts=True
    )
