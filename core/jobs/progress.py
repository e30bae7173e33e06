"""The transactions of a job.

A task that changes many rows does it in batches:

    with batch() as progress:
        progress.done += delete_some_rows()

Each batch is a transaction that is attributed to the user who asked for the job. It commits together with the progress,
and only while this worker holds the lease. So whatever kills a worker, a batch is applied once, and the task, which
starts again from the beginning, finds only what is still to be done.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from core import audit
from core.models import Job

LEASE = timedelta(seconds=60)  # the worker renews it every few seconds

is_stopping = threading.Event()  # set when this process is asked to stop


class Interrupted(Exception):
    """The worker stops. The job is queued again."""


class LeaseLost(Exception):
    """Another worker has taken the job over, because this one did not renew its lease in time."""


class RunningJob:
    """A job that a thread of this process runs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.thread = threading.get_ident()
        self.progressed_at = time.monotonic()  # when it began, or last committed a batch or called `keep_going`


running_jobs: dict[UUID, RunningJob] = {}
_current: ContextVar[RunningJob | None] = ContextVar("job", default=None)


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Make `job` the one that this thread runs."""
    running_jobs[job.pk] = RunningJob(job)
    token = _current.set(running_jobs[job.pk])
    try:
        yield
    finally:
        _current.reset(token)
        del running_jobs[job.pk]


def current_job() -> Job:
    """Return the job that this thread runs, or an unsaved one outside of a job."""
    current = _current.get()
    return current.job if current else Job()


@contextmanager
def batch() -> Iterator[Job]:
    """Open a transaction, and yield the job, whose `done`, `total` and `result` are stored when the block ends.

    Outside of a job, such as in a management command, yield a job that is not stored.

    Raises Interrupted before the block, or LeaseLost after it, which rolls the transaction back. A task lets both pass.
    """
    current = _current.get()
    if current is None:
        with transaction.atomic():
            yield Job()
        return
    if is_stopping.is_set():
        raise Interrupted
    job = current.job
    before = job.done, job.total, deepcopy(job.result)
    try:
        # Durable: in a transaction of the task, the lease would be checked long before the commit.
        with transaction.atomic(durable=True), audit.attributed_to(job_origin(job)):
            yield job
            progress: dict[str, Any] = {"done": job.done, "total": job.total, "result": job.result}
            if job.done > before[0]:
                progress["attempts"] = 0
            # The row lock also makes a worker that takes the job over wait for this transaction.
            if not renew(job, **progress):
                raise LeaseLost
    except BaseException:
        job.done, job.total, job.result = before
        raise
    job.attempts = progress.get("attempts", job.attempts)
    current.progressed_at = time.monotonic()


def keep_going() -> None:
    """Count as progress, for a task that waits for another program. Raise Interrupted if this process is to stop."""
    if is_stopping.is_set():
        raise Interrupted
    if current := _current.get():
        current.progressed_at = time.monotonic()


def renew(job: Job, **progress: object) -> bool:
    """Renew the lease. Return False if another worker has taken the job over.

    All times are of the database, because the clocks of workers may differ.
    """
    held = Job.objects.filter(pk=job.pk, lease=job.lease, status=Job.Status.RUNNING)
    return bool(held.update(leased_until=Now() + LEASE, updated_at=Now(), **progress))


def job_origin(job: Job) -> audit.Origin:
    return audit.Origin(job.actor_id, job.actor_email, job.address, job.trace_id, job.reason)
