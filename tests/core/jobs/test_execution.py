"""Jobs in real worker processes: each batch is applied exactly once, whatever happens to the worker."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from django.db.models.functions import Now
from django_tasks.base import Task

from core.jobs import execution
from core.jobs.execution import MAX_ATTEMPTS, cancel
from core.jobs.progress import LeaseLost, batch, renew, running
from core.models import Job, Session, User
from tests.core.jobs.conftest import Servers, add_sessions, archived_once
from tests.support.jobs import tasks
from tests.support.jobs.worker import LEASE
from tests.support.polling import SLOWNESS, succeeds_within

Ends = Callable[..., bool]


def progress(job_id: str) -> int:
    return Job.objects.values_list("done", flat=True).get(pk=job_id)


def test_another_worker_continues_after_a_kill(jobs: Servers, user: User, ends: Ends) -> None:
    add_sessions(user, 200)
    job = tasks.archive.enqueue(user.pk, milliseconds=20)
    with jobs.worker() as first:
        assert succeeds_within(20, lambda: progress(job.id) > 5)
        first.kill()
    assert Job.objects.get(pk=job.id).status == Job.Status.RUNNING
    assert 0 < Session.objects.filter(user=user, is_archived=True).count() < 200
    with jobs.worker() as second:
        assert ends(job.id)
        assert len(second.events("job started")) == 1
    assert archived_once(jobs, user)
    assert progress(job.id) == 200


def test_batch_of_a_frozen_worker_is_rolled_back(jobs: Servers, user: User, ends: Ends) -> None:
    """The frozen worker changed rows and did not commit. PostgreSQL ends its transaction only after a minute."""
    add_sessions(user, 3)
    job = tasks.archive.enqueue(user.pk, size=1, milliseconds=1000)
    with jobs.worker() as first, jobs.worker(wait=False) as second:
        assert succeeds_within(20, lambda: progress(job.id) == 1)
        frozen, other = (first, second) if first.events("job started") else (second, first)
        frozen.freeze()
        assert other.logs("job started")
        frozen.thaw()
        assert succeeds_within(20, lambda: "lease_lost" in frozen.log() or "job failed" in frozen.log())
        assert ends(job.id)
    assert archived_once(jobs, user)
    assert progress(job.id) == 3


def test_thawed_worker_does_not_repeat_what_another_did(jobs: Servers, user: User, ends: Ends) -> None:
    """Nothing but the lease prevents the second session, because the frozen worker holds no lock."""
    job = tasks.add_session_slowly.enqueue(user.pk, 2000)
    with jobs.worker() as frozen:
        assert frozen.logs("job started")
        frozen.freeze()
        with jobs.worker():
            assert ends(job.id)
        frozen.thaw()
        assert frozen.logs("job ended")
        # PostgreSQL ends a transaction that is idle for a minute, which a busy machine can need.
        assert frozen.events("job ended")[0]["outcome"] in ("lease_lost", "retried")
    assert Session.objects.filter(user=user).count() == 1
    assert Job.objects.get(pk=job.id).status == Job.Status.SUCCEEDED


def test_thawed_worker_commits_nothing_while_another_runs_the_job(jobs: Servers, user: User, ends: Ends) -> None:
    """Neither a row lock nor the status of the job stops the thawed worker, only its lease."""
    job = tasks.add_session_slowly.enqueue(user.pk, 10_000)
    with jobs.worker() as first, jobs.worker() as second:
        assert succeeds_within(20, lambda: first.events("job started") or second.events("job started"))
        frozen, other = (first, second) if first.events("job started") else (second, first)
        frozen.freeze()
        assert other.logs("job started")
        frozen.thaw()
        assert frozen.logs("job ended")
        assert frozen.events("job ended")[0]["outcome"] == "lease_lost"
        assert ends(job.id)
    assert Session.objects.filter(user=user).count() == 1


def test_lease_that_another_worker_has(jobs: Servers, user: User) -> None:
    job_id = UUID(tasks.add_session.enqueue(user.pk).id)
    lost = execution._claim(job_id)
    Job.objects.update(leased_until=Now() - timedelta(seconds=1))
    held = execution._claim(job_id)
    assert lost and held
    with running(lost), pytest.raises(LeaseLost), batch():
        Session.objects.create(user=user)
    assert not Session.objects.filter(user=user).exists()
    assert not renew(lost)
    execution._store_outcome(lost, "failed", "")
    assert Job.objects.get(pk=job_id).lease == held.lease
    with running(held), batch():
        Session.objects.create(user=user)
    assert Session.objects.filter(user=user).count() == 1


def test_thousand_jobs_on_two_workers_run_once_each(jobs: Servers, user: User) -> None:
    with jobs.worker() as first, jobs.worker() as second:
        for _ in range(1000):
            tasks.add_session.enqueue(user.pk)
        assert succeeds_within(120, lambda: not Job.objects.exclude(status=Job.Status.SUCCEEDED).exists(), interval=0.5)
        assert Session.objects.filter(user=user).count() == 1000
        started = [line["job"] for worker in (first, second) for line in worker.events("job started")]
        assert len(started) == len(set(started)) == 1000
        assert first.events("job started")
        assert second.events("job started")
        assert succeeds_within(60, lambda: not jobs.redis_client().hlen("voiceassist:queue:jobs.msgs"))
    keys: list[bytes] = list(jobs.redis_client().scan_iter("voiceassist:queue:__acks__*"))
    assert keys == []


def test_retries_with_growing_delays(jobs: Servers, user: User, ends: Ends) -> None:
    job = tasks.fail.enqueue(2, user.pk)
    with jobs.worker(constants={"core.jobs.execution._RETRY_DELAY": 0.5}) as worker:
        assert ends(job.id)
        starts = [datetime.fromisoformat(line["timestamp"]) for line in worker.events("job started")]
        assert [line["outcome"] for line in worker.events("job ended")] == ["retried", "retried", "succeeded"]
    assert starts[1] - starts[0] > timedelta(seconds=0.5)
    assert starts[2] - starts[1] > timedelta(seconds=2)
    assert Job.objects.get(pk=job.id).error == ""


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (tasks.fail_in_batch, "ValueError"),
        (tasks.exit_process, "SystemExit"),
        (tasks.run_out_of_memory, "MemoryError"),
        (tasks.statement_with_text, "DataError (SQLSTATE 22P02)"),
    ],
)
def test_failing_job_ends(jobs: Servers, user: User, ends: Ends, task: "Task[..., None]", error: str) -> None:
    job = task.enqueue(*([user.pk] if task is tasks.fail_in_batch else []))
    with jobs.worker(constants={"core.jobs.execution._RETRY_DELAY": 0.01}) as worker:
        assert ends(job.id, Job.Status.FAILED)
        assert [line["reason"] for line in worker.events("job failed")] == [error] * MAX_ATTEMPTS
        assert ends(tasks.sleep.enqueue(1).id)  # the worker goes on
        assert tasks.TEXT not in worker.log()
    row = Job.objects.get(pk=job.id)
    assert (row.error, row.done, row.attempts) == (error, 0, MAX_ATTEMPTS)
    assert not Session.objects.filter(user=user).exists()


def test_job_that_kills_every_worker_fails(jobs: Servers, ends: Ends) -> None:
    """Such as one that needs more memory than there is."""
    job = tasks.kill_worker.enqueue()
    Job.objects.filter(pk=job.id).update(attempts=MAX_ATTEMPTS - 1)
    with jobs.worker(constants={"core.jobs.progress.LEASE": 1, "core.jobs.execution.LEASE": 1}) as worker:
        assert worker.process.wait(30 * SLOWNESS) == -9
    with jobs.worker() as worker:
        assert ends(job.id, Job.Status.FAILED)
        assert worker.process.poll() is None
    assert Job.objects.get(pk=job.id).error == "The workers that ran the job ended or hung"


def test_job_that_hangs_ends_the_worker(jobs: Servers) -> None:
    job = tasks.sleep.enqueue(3_600_000)
    short = {"core.jobs.worker.MAX_TIME_WITHOUT_PROGRESS": 2, "core.jobs.worker.STOP_TIMEOUT": 1}
    with jobs.worker(constants=short) as worker:
        assert worker.process.wait(30 * SLOWNESS) == 1
        (line,) = worker.events("made no progress")
        assert line["job"] == job.id
        assert any("tasks.py" in frame and frame.endswith(" sleep") for frame in line["frames"])
    leased_until = Job.objects.get(pk=job.id).leased_until
    # From then on the lease was not renewed, so that another worker takes the job when it expires.
    assert leased_until and leased_until < datetime.fromisoformat(line["timestamp"]) + timedelta(seconds=LEASE)


def test_lease_of_a_job_without_batches_is_renewed(jobs: Servers, ends: Ends) -> None:
    job = tasks.sleep.enqueue(round(2000 * LEASE))  # twice the lease
    with jobs.worker() as first, jobs.worker() as second:
        assert ends(job.id)
        assert len(first.events("job started") + second.events("job started")) == 1


def test_cancelling(jobs: Servers, user: User, ends: Ends) -> None:
    waiting, running = tasks.add_session.enqueue(user.pk), tasks.sleep.enqueue(2000)
    assert cancel(waiting.id)
    assert not cancel(waiting.id)
    with jobs.worker():
        assert succeeds_within(20, lambda: Job.objects.get(pk=running.id).status == Job.Status.RUNNING)
        assert not cancel(running.id)
        assert ends(running.id)
        assert not cancel(running.id)
    assert ends(waiting.id, Job.Status.CANCELLED)
    assert not Session.objects.filter(user=user).exists()


def test_only_one_of_cancelling_and_claiming_wins(jobs: Servers, user: User, ends: Ends) -> None:
    """The first job is always cancelled and the last one is always claimed. The machine decides about the others."""
    first = tasks.add_session.enqueue(user.pk)
    assert cancel(first.id)
    with jobs.worker():
        results = [tasks.add_session.enqueue(user.pk).id for _ in range(100)]
        cancelled = sum(cancel(job_id) for job_id in reversed(results))
        assert succeeds_within(30, lambda: not Job.objects.filter(status__in=("queued", "running")).exists())
        last = tasks.add_session.enqueue(user.pk)
        assert ends(last.id)
        assert not cancel(last.id)
    assert Session.objects.filter(user=user).count() == 100 - cancelled + 1


@pytest.mark.parametrize("missing", ["tests.support.jobs.tasks.not_yet", "new_argument"])
def test_older_worker_leaves_a_job_to_a_newer_one(jobs: Servers, user: User, ends: Ends, missing: str) -> None:
    job = tasks.not_yet.enqueue(user.pk, 5)
    if missing == "new_argument":  # an argument that the worker's task lacks
        Job.objects.filter(pk=job.id).update(arguments={"user_id": str(user.pk), "unknown": 5})
        constants = {}
    else:
        constants = {missing: None}
    with jobs.worker(constants=constants) as older:
        assert older.logs("left to another worker")
        assert ends(tasks.add_session.enqueue(user.pk).id)
        row = Job.objects.get(pk=job.id)
        assert (row.status, row.attempts, row.started_at) == (Job.Status.QUEUED, 0, None)
        Job.objects.filter(pk=job.id).update(arguments={"user_id": str(user.pk), "new_argument": 5})
        with jobs.worker():
            assert ends(job.id)
        assert len(older.events("left to another worker")) == 1
    assert Session.objects.filter(user=user).count() == 2


def test_nothing_is_left_for_the_next_job(jobs: Servers, user: User, ends: Ends) -> None:
    """The lock of a session would be held by the next job of the thread, and the trace id would be in its lines."""
    with jobs.worker(constants={"core.jobs.worker.THREADS": 1, "core.jobs.execution._RETRY_DELAY": 60}) as worker:
        failed = tasks.leave_session_state.enqueue()
        assert worker.logs('"outcome": "retried"')
        with jobs.superuser() as superuser:
            assert superuser.execute("SELECT pg_try_advisory_lock(4711)").fetchone() == (True,)
        other = tasks.sleep.enqueue(1)
        assert ends(other.id)
        ids = {line["job"]: line["trace_id"] for line in worker.events("job ended")}
        assert len(set(ids.values())) == 2
        assert set(ids) == {failed.id, other.id}
        assert all("trace_id" not in line for line in worker.events("worker started"))
