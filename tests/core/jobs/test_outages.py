"""Outages of PostgreSQL and Redis while workers run: no job is lost, and none runs twice."""

from collections.abc import Callable

import pytest
from django.db import OperationalError, connection

from core.models import Job, Session, User
from tests.core.jobs.conftest import Servers, add_sessions, archived_once
from tests.support.jobs import tasks
from tests.support.polling import succeeds_within

Ends = Callable[..., bool]


def progress(job_id: str) -> int:
    return Job.objects.values_list("done", flat=True).get(pk=job_id)


@pytest.mark.parametrize("loss", ["flushed", "killed"])
def test_jobs_survive_the_loss_of_redis(jobs: Servers, user: User, ends: Ends, loss: str) -> None:
    queued = [tasks.add_session.enqueue(user.pk) for _ in range(20)]
    if loss == "killed":
        jobs.redis.kill()
        queued.append(tasks.add_session.enqueue(user.pk))  # a request succeeds without Redis
        assert Job.objects.get(pk=queued[-1].id).sent_at is None
    with jobs.worker(wait=loss == "flushed") as worker:
        if loss == "killed":
            assert worker.logs("The worker can't report to Redis. It tries again.")
            jobs.redis.start()
            assert worker.logs("The worker can report to Redis again.")
        jobs.redis_client().flushall()
        for job in queued:
            assert ends(job.id)
        assert len(worker.events("The worker can't")) <= 1
        assert len(worker.events("Consumer encountered")) <= 1
        assert all("error" not in line for line in worker.events(""))  # no traceback
    assert Session.objects.filter(user=user).count() == len(queued)


def test_frozen_redis_delays_only_the_queue(jobs: Servers, user: User, ends: Ends) -> None:
    """A running job keeps its lease, and enqueueing takes a few seconds at most."""
    add_sessions(user, 40)
    with jobs.worker() as worker:
        running = tasks.archive.enqueue(user.pk, milliseconds=200)
        assert succeeds_within(20, lambda: progress(running.id) > 0)
        jobs.redis.freeze()
        waiting = tasks.add_session.enqueue(user.pk)
        assert succeeds_within(60, lambda: progress(running.id) == 40)
        jobs.redis.thaw()
        assert ends(running.id)
        assert ends(waiting.id)
        assert len(worker.events("job started")) == 2
    assert Session.objects.filter(user=user).count() == 41


def test_killed_postgresql_rolls_back_the_batch(jobs: Servers, user: User, ends: Ends) -> None:
    add_sessions(user, 20)
    with jobs.worker(LOG_LEVEL="DEBUG") as worker:
        job = tasks.archive.enqueue(user.pk, milliseconds=200)
        assert succeeds_within(20, lambda: progress(job.id) > 1)
        jobs.postgres.kill()
        assert worker.logs("The worker can't use PostgreSQL. It tries again.")
        jobs.postgres.start()
        connection.close()
        assert ends(job.id)
        assert worker.logs("The worker can use PostgreSQL again.")
        assert all("error" not in line for line in worker.events(""))  # no traceback
    assert archived_once(jobs, user)
    assert progress(job.id) == 20


def test_frozen_postgresql(jobs: Servers, user: User, ends: Ends) -> None:
    """No call waits longer than DATABASE_TIMEOUT, and the commit of a batch that got no response counts once."""
    add_sessions(user, 20)
    with jobs.worker("--bind", f"127.0.0.1:{jobs.http_port}", DATABASE_TIMEOUT="1") as worker:
        job = tasks.archive.enqueue(user.pk, milliseconds=200)
        assert succeeds_within(20, lambda: progress(job.id) > 1)
        jobs.postgres.freeze()
        assert worker.logs("The worker can't use PostgreSQL. It tries again.")
        assert jobs.http_status("/health") == 200
        jobs.postgres.thaw()
        assert ends(job.id)
    assert archived_once(jobs, user)
    assert progress(job.id) == 20


def test_worker_starts_before_its_servers_and_tables(jobs: Servers, user: User, ends: Ends) -> None:
    job = tasks.add_session.enqueue(user.pk)
    with jobs.superuser() as superuser:
        superuser.execute("ALTER TABLE jobs RENAME TO hidden_jobs")
    show_table = "ALTER TABLE IF EXISTS hidden_jobs RENAME TO jobs"
    try:
        jobs.postgres.kill()
        jobs.redis.kill()
        with jobs.worker() as worker:
            assert worker.logs("The worker can't use PostgreSQL. It tries again.")
            assert worker.logs("The worker can't report to Redis. It tries again.")
            jobs.redis.start()
            jobs.postgres.start()
            assert worker.logs("The worker can report to Redis again.")
            with jobs.superuser() as superuser:
                superuser.execute(show_table)
            connection.close()
            assert ends(job.id)
            (line,) = worker.events("The worker can't use PostgreSQL")
            assert "error" not in line
    finally:
        jobs.postgres.start()
        with jobs.superuser() as superuser:
            superuser.execute(show_table)


def test_missing_table_is_logged_once_with_a_hint(jobs: Servers) -> None:
    with jobs.superuser() as superuser:
        superuser.execute("ALTER TABLE jobs RENAME TO hidden_jobs")
    try:
        with jobs.worker() as worker:
            assert worker.logs("Run manage.py migrate.")
            assert worker.logs("The worker can't use PostgreSQL")
            (line,) = worker.events("The worker can't use PostgreSQL")
            assert (line["reason"], "error" in line) == ("ProgrammingError", False)
    finally:
        with jobs.superuser() as superuser:
            superuser.execute("ALTER TABLE hidden_jobs RENAME TO jobs")


def test_read_only_postgresql(jobs: Servers, user: User, ends: Ends) -> None:
    """Such as a standby before it is promoted."""
    add_sessions(user, 10)
    with jobs.worker() as worker:
        job = tasks.archive.enqueue(user.pk, milliseconds=100)
        assert succeeds_within(20, lambda: progress(job.id) > 1)
        with jobs.superuser() as superuser:
            superuser.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            superuser.execute("SELECT pg_reload_conf()")
        try:
            assert worker.logs("The worker can't use PostgreSQL. It tries again.")
        finally:
            with jobs.superuser() as superuser:
                superuser.execute("SET transaction_read_only = off")
                superuser.execute("ALTER SYSTEM RESET default_transaction_read_only")
                superuser.execute("SELECT pg_reload_conf()")
        assert ends(job.id)
    assert archived_once(jobs, user)


def test_enqueueing_without_postgresql_fails(jobs: Servers) -> None:
    connection.close()
    jobs.postgres.kill()
    with pytest.raises(OperationalError):
        tasks.sleep.enqueue(1)
