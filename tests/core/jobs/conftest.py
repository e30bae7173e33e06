"""Servers of their own, which the tests of jobs kill and freeze, and to which Django connects during these tests."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import pytest_django
import redis
from django.conf import LazySettings
from django.db import connection

from core.database_roles import APPLICATION_ROLE
from core.jobs import queue
from core.models import Job, Session, User
from tests.support.dependency_servers import Postgres, Valkey, free_port
from tests.support.jobs.worker import Worker
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import database_with_staff

_DATABASE = "jobs"


class Servers:
    def __init__(self, postgres: Postgres, redis: Valkey) -> None:
        self.postgres, self.redis = postgres, redis
        self.url = database_with_staff(self.postgres, _DATABASE, "admin@example.org", "unused")
        self.http_port = free_port()  # for workers
        self.environment = {"DATABASE_URL": self.url, "REDIS_URL": self.redis.url}

    def worker(self, *options: str, **arguments: Any) -> Worker:
        return Worker(*options, **self.environment | arguments)

    def http_status(self, path: str) -> int:
        return httpx.get(f"http://127.0.0.1:{self.http_port}{path}").status_code

    def superuser(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.postgres.url.replace("/tests", f"/{_DATABASE}"), autocommit=True)

    def redis_client(self) -> "redis.Redis":
        return redis.Redis(port=self.redis.port, password=self.redis.password, protocol=2)


@pytest.fixture(scope="session")
def job_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("jobs")
    with Postgres(folder / "postgres") as postgres, Valkey(folder / "redis") as valkey:
        yield Servers(postgres, valkey)


@pytest.fixture(autouse=True)
def jobs(
    job_servers: Servers, settings: LazySettings, django_db_blocker: pytest_django.DjangoDbBlocker
) -> Iterator[Servers]:
    """Connect Django to the servers, and restart them afterwards if necessary. Return them."""
    settings.REDIS_URL = job_servers.redis.url
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.support.jobs"]
    before = dict(connection.settings_dict)
    own = {"HOST": "127.0.0.1", "PORT": str(job_servers.postgres.port), "NAME": _DATABASE, "USER": APPLICATION_ROLE}
    queue.broker.cache_clear()
    with django_db_blocker.unblock():
        connection.close()
        connection.settings_dict |= own
        try:
            yield job_servers
            for server in (job_servers.postgres, job_servers.redis):
                server.thaw()
                server.start()
            with job_servers.superuser() as superuser:
                superuser.execute("DELETE FROM jobs")
            job_servers.redis_client().flushall()
        finally:
            connection.close()
            connection.settings_dict |= before
            queue.broker.cache_clear()


@pytest.fixture
def user(jobs: Servers) -> User:
    return User.objects.create(email=f"user-{User.objects.count()}@example.org")


@pytest.fixture
def ends(jobs: Servers) -> Callable[..., bool]:
    """Return a function that waits until a job has a final status, and returns whether it is the expected one."""

    def wait(job_id: "str | UUID", status: str = "succeeded", within: float = 40) -> bool:
        final = (Job.Status.SUCCEEDED, Job.Status.FAILED, Job.Status.CANCELLED)
        row = Job.objects.filter(pk=job_id)
        assert succeeds_within(within, lambda: row.filter(status__in=final)), row.values()
        assert row.values_list("status", flat=True).get() == status, row.values()
        return True

    return wait


def add_sessions(user: User, number: int) -> None:
    Session.objects.bulk_create(Session(user=user) for _ in range(number))


def archived_once(jobs: Servers, user: User) -> bool:
    """Return whether the audit trail has exactly one update of each session of the user."""
    query = (
        "SELECT count(*), count(DISTINCT object_id) FROM audit_events JOIN sessions ON object_id = sessions.id::text"
        " WHERE action = 'change' AND user_id = %s"
    )
    with jobs.superuser() as superuser:
        events, rows = superuser.execute(query, (user.pk,)).fetchone() or (0, 0)
    remaining = Session.objects.filter(user=user, is_archived=False).count()
    return bool(events == rows == Session.objects.filter(user=user).count() and not remaining)
