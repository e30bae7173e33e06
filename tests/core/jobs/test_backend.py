"""Django's Tasks API: https://docs.djangoproject.com/en/6.0/topics/tasks/."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone
from django_tasks import TaskContext, TaskResultStatus, task
from django_tasks.exceptions import InvalidTaskError, TaskResultDoesNotExist, TaskResultMismatch

from core.jobs import queue
from core.jobs.registry import load
from core.models import Job, User
from core.tasks import clear_web_sessions
from tests.core.jobs.conftest import Servers
from tests.support.jobs import tasks

Ends = Callable[..., bool]
LIST = "voiceassist:queue:jobs"


def test_life_of_a_result(jobs: Servers, user: User, ends: Ends) -> None:
    result = tasks.add_session.enqueue(user.pk)
    assert (result.status, result.kwargs, result.started_at) == (
        TaskResultStatus.READY,
        {"user_id": str(user.pk)},
        None,
    )
    later = tasks.add_session.using(run_after=timezone.now() + timedelta(seconds=3)).enqueue(user.pk)
    failing = tasks.exit_process.enqueue()
    with jobs.worker(constants={"core.jobs.execution._RETRY_DELAY": 0.01}):
        assert ends(result.id)
        assert ends(failing.id, Job.Status.FAILED)
        assert ends(later.id)
    found = tasks.add_session.get_result(result.id)
    assert (found.status, found.is_finished, found.return_value) == (TaskResultStatus.SUCCESSFUL, True, None)
    assert tasks.exit_process.get_result(failing.id).status == TaskResultStatus.FAILED
    row = Job.objects.get(pk=later.id)
    assert row.started_at and row.started_at >= row.run_after > row.created_at + timedelta(seconds=2)
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL


def test_unknown_results(jobs: Servers, user: User) -> None:
    result = tasks.add_session.enqueue(user.pk)
    with pytest.raises(TaskResultMismatch):
        tasks.sleep.get_result(result.id)
    Job.objects.filter(pk=result.id).update(task="core.tasks.removed")
    for unknown in (result.id, str(uuid4()), "no UUID"):
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add_session.get_result(unknown)


def test_rollback_leaves_nothing(jobs: Servers, user: User) -> None:
    with transaction.atomic():
        tasks.add_session.enqueue(user.pk)
        assert jobs.redis_client().llen(LIST) == 0  # only after the commit
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert jobs.redis_client().llen(LIST) == 0
    with transaction.atomic():
        tasks.add_session.enqueue(user.pk)
    assert jobs.redis_client().llen(LIST) == 1


def test_failure_after_the_commit_does_not_reach_the_caller(
    jobs: Servers, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an outage of Redis, during which PostgreSQL ends the connection."""

    def fail(job_id: UUID) -> None:
        raise OperationalError

    monkeypatch.setattr(queue, "send", fail)
    tasks.add_session.enqueue(user.pk)
    with transaction.atomic():
        tasks.add_session.enqueue(user.pk)
    assert Job.objects.filter(status=Job.Status.QUEUED).count() == 2


@pytest.mark.parametrize("value", ["John Doe", "", None, 1.5, math.nan, [1], {"a": 1}, b"bytes", object()])
def test_arguments_other_than_ids_and_numbers_are_refused(jobs: Servers, value: object) -> None:
    with pytest.raises(ValueError, match=r"The argument user_id must be a UUID or a whole number\.") as error:
        tasks.add_session.enqueue(value)  # type: ignore[arg-type]
    assert error.value.__suppress_context__  # it may quote the value
    assert not Job.objects.exists()


def test_ids_and_numbers_are_accepted(jobs: Servers, user: User) -> None:
    for value in (user.pk, str(user.pk), 2**60, True):
        tasks.add_session.enqueue(value)  # type: ignore[arg-type]
    assert {type(job.arguments["user_id"]) for job in Job.objects.all()} == {str, int, bool}


def test_wrong_arguments_are_refused(jobs: Servers) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'user_id'"):
        tasks.add_session.enqueue()  # type: ignore[call-arg]


def takes_context(context: "TaskContext") -> None: ...


@task()
def outside_of_a_tasks_module() -> None: ...


def test_tasks_that_no_worker_could_run_are_refused(jobs: Servers) -> None:
    with pytest.raises(ValueError, match="Unknown task"):
        outside_of_a_tasks_module.enqueue()
    with pytest.raises(InvalidTaskError, match="takes_context"):
        task(takes_context=True)(takes_context)


@pytest.mark.parametrize(
    "path", ["os.system", "core.models.Job", "core.tasks.batch", "core.tasks.x", "", "tasks", "a.b"]
)
def test_only_tasks_of_applications_are_loaded(jobs: Servers, path: str) -> None:
    with pytest.raises(ValueError, match="Unknown task"):
        load(path)
    assert load("core.tasks.clear_web_sessions") == clear_web_sessions


def test_times_are_of_the_database(jobs: Servers, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose clock is an hour ahead must not delay a job."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime.now(UTC) + timedelta(hours=1))
    result = tasks.add_session.enqueue(user.pk)
    with jobs.superuser() as superuser:
        query = "SELECT run_after <= now(), sent_at <= now() FROM jobs WHERE id = %s"
        assert superuser.execute(query, (UUID(result.id),)).fetchone() == (True, True)
