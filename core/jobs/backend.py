"""The backend of Django's Tasks API (https://docs.djangoproject.com/en/6.0/topics/tasks/), which stores jobs."""

import inspect
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django_tasks.backends.base import BaseTaskBackend
from django_tasks.base import Task, TaskResult, TaskResultStatus
from django_tasks.exceptions import InvalidTaskError, TaskResultDoesNotExist

from core import audit
from core.jobs import queue
from core.jobs.registry import load
from core.models import Job

P = ParamSpec("P")
T = TypeVar("T")

_STATUSES = {
    Job.Status.QUEUED: TaskResultStatus.READY,
    Job.Status.RUNNING: TaskResultStatus.RUNNING,
    Job.Status.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Job.Status.FAILED: TaskResultStatus.FAILED,
    Job.Status.CANCELLED: TaskResultStatus.FAILED,
}


class TaskBackend(BaseTaskBackend):
    supports_defer = True
    supports_get_result = True

    def validate_task(self, task: "Task[..., Any]") -> None:
        super().validate_task(task)
        if task.takes_context:
            raise InvalidTaskError("Backend does not support takes_context. Use core.jobs.progress.current_job().")

    def enqueue(self, task: "Task[P, T]", args: Any, kwargs: Any) -> "TaskResult[T]":
        """Store a job and return its result. Raise ValueError if an argument is neither a UUID nor a whole number."""
        self.validate_task(task)
        load(task.module_path)  # otherwise no worker could run the job
        arguments = inspect.signature(task.func).bind(*args, **kwargs).arguments
        # The times are of the database, because the clocks of servers and workers may differ.
        job = Job.objects.create(
            task=task.module_path,
            arguments={name: _without_text(name, value) for name, value in arguments.items()},
            run_after=task.run_after or Now(),
            sent_at=None if task.run_after else Now(),
            **audit.current_origin()._asdict(),
        )
        if not task.run_after:
            # The job is stored, so a failure must not reach the caller. Django needs a function with a name to log it.
            transaction.on_commit(lambda: queue.send(job.pk), robust=True)
        return _result(job, task, self.alias)

    def get_result(self, result_id: str) -> "TaskResult[Any]":
        try:
            job = Job.objects.get(pk=UUID(result_id))
            return _result(job, load(job.task), self.alias)
        except (ValueError, Job.DoesNotExist):
            raise TaskResultDoesNotExist(result_id) from None


def _without_text(name: str, value: Any) -> str | int:
    """Return the argument as it is stored. Text could contain PHI, which belongs in no queue and no list of jobs."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int):
        return value
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"The argument {name} must be a UUID or a whole number. Store text in a row instead."
        ) from None


def _result(job: Job, task: "Task[..., Any]", backend: str) -> "TaskResult[Any]":
    return TaskResult(
        task=task,
        id=str(job.pk),
        status=_STATUSES[Job.Status(job.status)],
        enqueued_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        last_attempted_at=job.started_at,
        args=[],
        kwargs=job.arguments,
        backend=backend,
        errors=[],
        worker_ids=[],
    )
