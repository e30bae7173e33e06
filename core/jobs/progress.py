"""The transactions of a job.

A task that changes many rows does it in batches:

    with batch() as progress:
        progress.done += delete_some_rows()

Each batch is a transaction that is attributed to whoever asked for the job. It commits together with the progress, and
only while this worker holds the lease. So whatever kills a worker, a batch is applied once, and the task, which starts
again from the beginning, finds only what is still to be done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from threading import Event

from django.db import transaction
from django.utils import timezone

from core import audit
from core.models import Job

LEASE = timedelta(seconds=60)  # a batch takes seconds; the worker renews the lease of jobs without batches

is_stopping = Event()  # set when this process is asked to stop
_current: ContextVar[Job | None] = ContextVar("job", default=None)


class Interrupted(Exception):
    """The worker stops. The job is queued again."""


class LeaseLost(Exception):
    """Another worker has taken the job over, because this one did not renew its lease in time."""


@contextmanager
def running(job: Job) -> Iterator[None]:
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


def current_job() -> Job:
    """Return the job that this thread runs, or an unsaved one outside of a job."""
    return _current.get() or Job()


@contextmanager
def batch() -> Iterator[Job]:
    """Open a transaction, and yield the job, whose `done`, `total` and `result` are stored when the block ends.

    Outside of a job, such as in a management command, yield a job that is not stored.

    Raises Interrupted before the block, or LeaseLost after it, which rolls the transaction back.
    """
    job = _current.get()
    if job is None:
        with transaction.atomic():
            yield Job()
        return
    if is_stopping.is_set():
        raise Interrupted
    before = job.done, job.total, job.result
    try:
        with audit.attributed_to(job_origin(job)):
            yield job
            # The row lock also makes a worker that takes the job over wait for this transaction.
            if not renew(job, done=job.done, total=job.total, result=job.result, attempts=0):
                raise LeaseLost
    except BaseException:
        job.done, job.total, job.result = before  # otherwise the failure would store progress that was rolled back
        raise
    job.attempts = 0


def renew(job: Job, **progress: object) -> bool:
    """Renew the lease. Return False if another worker has taken the job over."""
    now = timezone.now()
    held = Job.objects.filter(pk=job.pk, lease=job.lease, status=Job.Status.RUNNING)
    return bool(held.update(leased_until=now + LEASE, updated_at=now, **progress))


def job_origin(job: Job) -> audit.Origin:
    return audit.Origin(job.actor_id, job.actor_email, job.address, job.trace_id, job.reason)
