"""Signals: a worker ends within the time that Compose and Kubernetes give it, and no job is lost."""

import signal
from collections.abc import Callable

import pytest

from core.models import Job, User
from tests.core.jobs.conftest import Servers, add_sessions, archived_once
from tests.support.jobs import tasks
from tests.support.polling import SLOWNESS, succeeds_within

Ends = Callable[..., bool]


def is_running(job_id: str) -> bool:
    return Job.objects.filter(pk=job_id, status=Job.Status.RUNNING, done__gt=0).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_job_with_batches_is_queued_again(jobs: Servers, user: User, ends: Ends, number: int) -> None:
    add_sessions(user, 60)
    job = tasks.archive.enqueue(user.pk, milliseconds=100)
    with jobs.worker() as worker:
        assert succeeds_within(20, lambda: is_running(job.id))
        assert worker.stop(number) == 0
        assert worker.stopped_after < 15 * SLOWNESS
        assert worker.events("job ended")[0]["outcome"] == "interrupted"
        assert worker.events("worker stopped")[0]["left"] == 0
    row = Job.objects.get(pk=job.id)
    assert (row.status, row.lease, row.attempts, row.sent_at) == (Job.Status.QUEUED, None, 0, None)
    with jobs.worker():
        assert ends(job.id)
    assert archived_once(jobs, user)


def test_job_without_batches_may_end(jobs: Servers, ends: Ends) -> None:
    job = tasks.sleep.enqueue(3000)
    with jobs.worker() as worker:
        assert worker.logs("job started")
        worker.send_signal(signal.SIGTERM)
        assert worker.stop() == 0  # a second SIGTERM changes nothing
    assert ends(job.id)


def test_job_that_takes_too_long_is_left_to_its_lease(jobs: Servers) -> None:
    job = tasks.sleep.enqueue(600_000)
    with jobs.worker(constants={"core.jobs.worker.STOP_TIMEOUT": 1}) as worker:
        assert worker.logs("job started")
        assert worker.stop() == 0
        assert worker.events("worker stopped")[0]["left"] == 1
    assert Job.objects.get(pk=job.id).status == Job.Status.RUNNING


def test_second_ctrl_c_ends_the_worker_at_once(jobs: Servers) -> None:
    tasks.sleep.enqueue(600_000)
    with jobs.worker() as worker:
        assert worker.logs("job started")
        worker.send_signal(signal.SIGINT)
        assert worker.logs("worker stops")
        assert worker.stop(signal.SIGINT) == -signal.SIGINT
        assert "Traceback" not in worker.log()


def test_worker_stops_while_everything_hangs(jobs: Servers, user: User) -> None:
    add_sessions(user, 60)
    job = tasks.archive.enqueue(user.pk, milliseconds=100)
    with jobs.worker(constants={"core.jobs.worker.STOP_TIMEOUT": 2}) as worker:
        assert succeeds_within(20, lambda: is_running(job.id))
        jobs.postgres.freeze()
        jobs.redis.freeze()
        assert worker.stop() == 0
        assert worker.stopped_after < 2 + 15 * SLOWNESS  # 30 + 15 of Compose and Kubernetes


def test_fetched_jobs_are_put_back(jobs: Servers, user: User, ends: Ends) -> None:
    slow = tasks.sleep.enqueue(2000)
    with jobs.worker(constants={"core.jobs.worker.THREADS": 1}) as worker:
        assert worker.logs("job started")
        waiting = tasks.add_session.enqueue(user.pk)
        assert worker.stop() == 0
        assert ends(slow.id)
        row = Job.objects.get(pk=waiting.id)
        assert (row.status, row.started_at) == (Job.Status.QUEUED, None)
    with jobs.worker(constants={"core.jobs.queue._SEND_AGAIN": 3600}):  # so it has to be in Redis
        assert ends(waiting.id)
