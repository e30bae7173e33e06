"""The check `queue` counts workers and jobs, and fails if no worker runs or if the queue can't be used."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from prometheus_client import REGISTRY
from pytest_django import Settings

from core.jobs import execution, queue, schedule
from core.models import Job
from health import job_counts, readiness
from health.check_runner import Runner
from health.checks import checks
from tests.support.dependency_servers import Valkey
from tests.support.fixed_reply_server import FixedReplyServer
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.readiness import RedisUrl, check

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def empty(use_url: RedisUrl, server: Valkey) -> Iterator[None]:
    """Use an empty queue, with the application's client too."""
    server.send_command("FLUSHALL")
    use_url(server.url)
    queue.broker.cache_clear()
    yield
    queue.broker.cache_clear()


def add_job(status: str = "queued", age: timedelta = MINUTE, **values: object) -> Job:
    """Store a job that has been due for `age`, or that has ended `age` ago."""
    times = {"queued": "run_after", "running": "leased_until"}
    defaults = {"run_after": timezone.now() - MINUTE * 60, times.get(status, "finished_at"): timezone.now() - age}
    return Job.objects.create(task="core.tasks.clear_web_sessions", status=status, **defaults | values)


def split_age(detail: str) -> tuple[str, int]:
    """Return the detail with N as the age of the oldest job, and that age in seconds."""
    match = re.search(r"(?<=oldest )\d+(?= s\b)", detail)
    assert match, detail
    return detail.replace(match[0], "N", 1), int(match[0])


def superuser_url(servers: Servers) -> str:
    return servers.postgres.url.replace("/tests", f"/{connection.settings_dict['NAME']}")


# Workers


def test_reports_workers_and_due_jobs() -> None:
    queue.report_worker()
    result = check("queue")
    assert (result.healthy, result.critical, result.detail) == (True, False, "1 worker, 0 jobs due")
    add_job(age=MINUTE * 3)
    add_job(age=MINUTE)
    detail, age = split_age(check("queue").detail)
    assert detail == "1 worker, 2 jobs due, oldest N s"
    assert age == pytest.approx(180, abs=20)


def test_no_worker_only_degrades() -> None:
    add_job()
    result = check("queue")
    assert (result.reason, result.critical) == ("not_ready", False)
    detail, age = split_age(result.detail)
    assert detail == (
        "0 workers, 1 job due, oldest N s; no worker has reported for 30 s. Start one: python manage.py worker"
    )
    assert age == pytest.approx(60, abs=20)
    runner = Runner(checks(["queue", "redis"]), timeout=5, max_age=0, explain=readiness.explain)
    assert runner.report().status == "degraded"


def test_worker_that_no_longer_reports_does_not_count(server: Valkey) -> None:
    now = int(server.send_command("TIME").split(b"\r\n")[3])
    server.send_command(f"ZADD voiceassist:queue:workers {now - 31} killed {now - 20} slow")
    assert check("queue").detail.startswith("1 worker, ")


def test_worker_that_stops_does_not_count() -> None:
    queue.report_worker()
    assert check("queue").healthy
    queue.remove_worker()
    assert check("queue").reason == "not_ready"


@pytest.mark.parametrize("optional", [[], ["redis"], ["queue"]])
def test_is_always_optional(settings: Settings, optional: list[str]) -> None:
    settings.HEALTH_OPTIONAL = optional
    assert [item.critical for item in checks(["queue", "postgres"])] == [True, False]


# Jobs


def test_counts_the_same_jobs_as_workers_take() -> None:
    for status in Job.Status.values:
        for age in (MINUTE, -MINUTE):
            add_job(status, age)
    due = Job.objects.filter(execution.IS_DUE)
    assert sorted(due.values_list("status", flat=True)) == ["queued", "running"]
    check("queue")
    assert job_counts.current.due == due.count()


def test_job_of_a_killed_worker_is_due_since_its_lease_expired() -> None:
    add_job("running", MINUTE * 2)
    check("queue")
    assert job_counts.current.oldest_seconds == pytest.approx(120, abs=20)


def test_counts_failures_of_the_last_day_and_failing_scheduled_tasks() -> None:
    for age in (MINUTE, MINUTE * 60 * 23, MINUTE * 60 * 25):
        add_job("failed", age)
    schedule.store_schedule()
    Job.objects.filter(task="core.tasks.clear_finished_jobs").update(error="ValueError")
    check("queue")
    assert job_counts.current.failed == 3


def test_uses_indexes_whatever_the_table_contains(servers: Servers) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs (id, created_at, updated_at, task, arguments, is_scheduled, status, run_after, attempts, "
            "done, result, error, actor_email, trace_id, reason, finished_at) "
            "SELECT gen_random_uuid(), now(), now(), 'x', '{}', false, 'succeeded', now(), 0, 0, '{}', '', '', '', '', "
            "now() FROM generate_series(1, 20000)"
        )
    with psycopg.connect(superuser_url(servers), autocommit=True) as superuser:
        superuser.execute("ANALYZE jobs")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {job_counts._QUERY}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan on jobs" not in plan, plan


# Failures


def test_reason_is_that_of_the_dependency_that_is_down(use_url: RedisUrl) -> None:
    use_url("redis://127.0.0.1:1/0")
    assert check("queue").reason == check("redis").reason == "connection_refused"


def test_counts_jobs_while_redis_is_down(use_url: RedisUrl) -> None:
    use_url("redis://127.0.0.1:1/0")
    add_job()
    check("queue")
    assert job_counts.current.due == 1


def test_hung_redis_is_a_timeout(server: Valkey) -> None:
    queue.report_worker()
    assert check("queue").healthy
    server.freeze()
    try:
        assert check("queue", timeout=1.0).reason == "timeout"
    finally:
        server.thaw()
    assert check("queue").healthy


def test_missing_table_is_a_pending_migration(servers: Servers) -> None:
    with psycopg.connect(superuser_url(servers), autocommit=True) as superuser:
        superuser.execute("ALTER TABLE jobs RENAME TO jobs_elsewhere")
        try:
            assert check("queue").reason == "migrations_pending"
        finally:
            superuser.execute("ALTER TABLE jobs_elsewhere RENAME TO jobs")


def test_server_without_scripts_is_reported(use_url: RedisUrl, tmp_path: Path) -> None:
    """Dramatiq could not use it."""
    renamed = [option for name in ("EVAL", "EVALSHA", "SCRIPT") for option in ("--rename-command", name, "")]
    server = Valkey(tmp_path, options=tuple(renamed))
    server.start()
    try:
        use_url(server.url)
        assert check("redis").healthy
        assert check("queue").reason == "misconfigured"
    finally:
        server.kill()


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"$-1\r\n", b"*1\r\n:1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_other_kind_of_server(use_url: RedisUrl, reply: bytes) -> None:
    with FixedReplyServer(reply) as fixed:
        use_url(f"redis://127.0.0.1:{fixed.port}/0")
        assert check("queue").reason == "bad_response"


def test_key_of_another_type_is_reported(server: Valkey) -> None:
    server.send_command("SET voiceassist:queue:workers text")
    assert check("queue").reason == "error"


# Metrics


def test_gauges_keep_the_last_numbers_during_an_outage(use_url: RedisUrl) -> None:
    def values() -> list[float | None]:
        readiness.observe(runner.report())
        names = ("job_workers", "jobs_due", "job_oldest_seconds", "jobs_failed")
        return [REGISTRY.get_sample_value(f"voiceassist_{name}") for name in names]

    runner = Runner(checks(["queue"]), timeout=5, max_age=0, explain=readiness.explain)
    queue.report_worker()
    add_job("failed")
    assert values() == [1, 0, 0, 1]
    use_url("redis://127.0.0.1:1/0")
    assert values() == [1, 0, 0, 1]
    drop_readiness_connections()
