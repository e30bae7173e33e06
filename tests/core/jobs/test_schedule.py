"""Scheduled jobs: each entry runs once at each of its times, whichever workers run."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.sessions.models import Session as WebSession
from django.utils import timezone

from core.jobs import schedule
from core.jobs.registry import load
from core.models import Job, Session, User
from tests.core.jobs.conftest import Servers, add_sessions
from tests.support.jobs import tasks
from tests.support.jobs.worker import SCHEDULE
from tests.support.polling import succeeds_within

Ends = Callable[..., bool]
CHECKPOINTS = "core.tasks.write_audit_checkpoints"
DAY = timedelta(days=1)
# Tasks, intervals, and times after the start of the day in UTC.
ENTRIES = [
    (CHECKPOINTS, timedelta(seconds=30), timedelta(0)),
    ("core.tasks.clear_web_sessions", DAY, timedelta(hours=3)),
    ("core.tasks.clear_login_attempts", DAY, timedelta(hours=3, minutes=10)),
    ("core.tasks.clear_finished_jobs", DAY, timedelta(hours=3, minutes=20)),
    ("core.tasks.clear_exports", DAY, timedelta(hours=3, minutes=30)),
]


def test_schedule_has_every_task_at_its_times() -> None:
    assert list(schedule.SCHEDULE) == ENTRIES
    assert tuple(schedule.VERIFY_BACKUP) == ("core.tasks.verify_backup", timedelta(days=7), timedelta(hours=4))


@pytest.mark.parametrize("entry", schedule.SCHEDULE, ids=lambda entry: str(entry.task))
def test_entries_are_tasks_without_arguments(entry: schedule.Entry) -> None:
    assert load(entry.task).func.__code__.co_argcount == 0


@pytest.mark.parametrize(
    ("task", "after", "expected"),
    [
        (CHECKPOINTS, datetime(2026, 1, 31, 12, 0, 29), datetime(2026, 1, 31, 12, 0, 30)),
        (CHECKPOINTS, datetime(2026, 1, 31, 12, 0, 30), datetime(2026, 1, 31, 12, 1, 0)),
        ("core.tasks.clear_web_sessions", datetime(2026, 1, 31, 2, 59), datetime(2026, 1, 31, 3, 0)),
        ("core.tasks.clear_web_sessions", datetime(2026, 1, 31, 3, 0), datetime(2026, 2, 1, 3, 0)),
        ("core.tasks.clear_login_attempts", datetime(2026, 12, 31, 23, 0), datetime(2027, 1, 1, 3, 10)),
    ],
)
def test_next_time(task: str, after: datetime, expected: datetime) -> None:
    assert schedule.next_run(task, after.replace(tzinfo=UTC)) == expected.replace(tzinfo=UTC)


def test_three_workers_run_each_entry_once(jobs: Servers) -> None:
    with (
        jobs.worker(constants=SCHEDULE, LOG_LEVEL="DEBUG") as a,
        jobs.worker(constants=SCHEDULE, LOG_LEVEL="DEBUG") as b,
        jobs.worker(constants=SCHEDULE, LOG_LEVEL="DEBUG") as c,
    ):
        ran = Job.objects.filter(is_scheduled=True, finished_at__isnull=False)
        assert succeeds_within(40, lambda: ran.count() == len(ENTRIES))
        lines = [line for worker in (a, b, c) for line in worker.events("job ended")]
    daily = [line["task"] for line in lines if line["task"] != "write_audit_checkpoints"]
    assert len(daily) == len(set(daily)) == len(ENTRIES) - 1
    assert {line["outcome"] for line in lines} == {"succeeded"}
    for job in ran:
        assert (job.status, job.error) == (Job.Status.QUEUED, "")
        assert job.started_at
        assert job.run_after == schedule.next_run(job.task, job.started_at)


def test_scheduled_jobs_do_not_wait_for_the_queue(jobs: Servers, user: User) -> None:
    """All threads run long jobs, more jobs wait, and then Redis is away."""
    for _ in range(8):
        tasks.sleep.enqueue(600_000)
    checkpoint = Job.objects.filter(task=CHECKPOINTS)
    with jobs.worker(constants={**SCHEDULE, "core.jobs.worker.STOP_TIMEOUT": 1}) as worker:
        assert succeeds_within(30, lambda: len(worker.events("job started")) == 4)
        assert succeeds_within(30, lambda: checkpoint.filter(finished_at__isnull=False).exists())
        jobs.redis.kill()
        before = checkpoint.values_list("finished_at", flat=True).get()
        checkpoint.update(run_after=timezone.now())
        assert succeeds_within(30, lambda: checkpoint.filter(finished_at__gt=before).exists())


def test_entry_that_was_removed(jobs: Servers) -> None:
    """An older or newer release may still run it, so it goes when nobody has run it for some minutes."""
    now = timezone.now()
    Job.objects.create(task="core.tasks.removed", is_scheduled=True, run_after=now - timedelta(minutes=4))
    schedule.store_schedule()
    assert Job.objects.filter(task="core.tasks.removed").exists()
    Job.objects.filter(task="core.tasks.removed").update(run_after=now - timedelta(minutes=6))
    schedule.store_schedule()
    schedule.store_schedule()
    assert sorted(Job.objects.values_list("task", flat=True)) == sorted(task for task, *_ in ENTRIES)


def test_worker_leaves_entries_that_its_release_lacks(jobs: Servers, user: User, ends: Ends) -> None:
    """The task exists, but is not in its schedule."""
    Job.objects.create(task="tests.support.jobs.tasks.sleep", is_scheduled=True, arguments={"milliseconds": 1})
    with jobs.worker() as worker:
        assert ends(tasks.sleep.enqueue(1000).id)  # meanwhile the worker looks at the schedule several times
        assert not worker.events("left to another worker")  # some workers never have the entry (`--drill`)
    assert Job.objects.get(is_scheduled=True).started_at is None


def test_old_rows_are_deleted(jobs: Servers, user: User) -> None:
    now = timezone.now()
    for days in (91, 89):
        Job.objects.create(task="old", status=Job.Status.SUCCEEDED, finished_at=now - timedelta(days=days))
    for number in range(2500):
        WebSession(session_key=f"key-{number}", session_data="", expire_date=now - timedelta(days=number - 2)).save()
    add_sessions(user, 1)
    with jobs.worker(constants=SCHEDULE):
        assert succeeds_within(40, lambda: WebSession.objects.count() == 2)
        assert succeeds_within(40, lambda: Job.objects.filter(task="old").count() == 1)
    assert Session.objects.filter(user=user).exists()
