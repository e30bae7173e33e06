"""Run a job: claim it in the database, call its task, and record the outcome."""

import inspect
import logging
import time
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import close_old_connections, connections
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now

from core import metrics
from core.clients.outages import is_outage, sqlstate
from core.clients.postgresql.time_limit import request_time_limit
from core.jobs import schedule
from core.jobs.progress import LEASE, Interrupted, LeaseLost, is_stopping, running
from core.jobs.registry import load
from core.models import Job
from core.trace_id import clear_trace_id, get_or_create_trace_id, set_trace_id

log = structlog.stdlib.get_logger("voiceassist.jobs")

MAX_ATTEMPTS = 5  # without progress
# 10 s after the first attempt, then four times longer after each: the last attempt begins 14 minutes after the first.
_RETRY_DELAY = timedelta(seconds=10)
_NO_OUTCOME = "The workers that ran the job ended or hung"
IS_DUE = Q(status=Job.Status.QUEUED, run_after__lte=Now()) | Q(status=Job.Status.RUNNING, leased_until__lt=Now())


def cancel(job_id: UUID | str) -> bool:
    """Cancel a job that has not begun. Return False if it has begun or ended."""
    waiting = Job.objects.filter(pk=job_id, status=Job.Status.QUEUED, started_at=None, is_scheduled=False)
    return bool(waiting.update(status=Job.Status.CANCELLED, finished_at=Now(), updated_at=Now()))


def run(job_id: UUID) -> None:
    """Run a job if it is due. Never raise, because an exception's text could contain PHI and Dramatiq would log it."""
    try:
        with request_time_limit(settings.DATABASE_TIMEOUT):
            if is_stopping.is_set():
                Job.objects.filter(pk=job_id).update(sent_at=None)  # another worker sends it again
            elif job := _claim(job_id):
                _run(job)
    except Exception as error:  # the lease expires, then the job is due again
        details: dict[str, Any] = {"reason": type(error).__name__} if is_outage(error) else {"exc_info": True}
        log.error("the state of a job could not be stored", job=str(job_id), **details)
    finally:
        clear_trace_id()
        close_old_connections()


def _claim(job_id: UUID) -> Job | None:
    """Take the lease of a job. Return None if it is not due, for example because another worker runs it."""
    due = Job.objects.filter(IS_DUE, pk=job_id)
    job = due.first()
    if job is None or not _is_known(job):
        return None
    lease = uuid4()
    claimed = due.update(
        status=Job.Status.RUNNING,
        lease=lease,
        leased_until=Now() + LEASE,
        attempts=F("attempts") + 1,
        started_at=Now(),
        finished_at=None,
        updated_at=Now(),
    )
    return Job.objects.get(pk=job_id, lease=lease) if claimed else None


def _is_known(job: Job) -> bool:
    """Return whether this worker can run a job.

    Otherwise it is left to workers of another release, during an upgrade, or to those that have it in their schedule.
    """
    try:
        inspect.signature(load(job.task).func).bind(**job.arguments)
    except (ValueError, TypeError):
        _warn_of_unknown(job.task)
        return False
    return not job.is_scheduled or schedule.find(job.task) is not None


@cache  # logs each task once
def _warn_of_unknown(task: str) -> None:
    log.warning(
        "A job is left to another worker, because this release lacks its task or an argument.",
        task=task,
        hint="If no upgrade is in progress, cancel the job.",
    )


def _run(job: Job) -> None:
    set_trace_id(job.trace_id or get_or_create_trace_id())
    name = job.task.rpartition(".")[2]
    started_at = time.monotonic()
    level = logging.DEBUG if job.is_scheduled else logging.INFO  # checkpoints would fill the log
    log.log(level, "job started", job=str(job.pk), task=name, attempt=job.attempts)
    outcome, error = _call(job, name)
    metrics.JOBS.labels(name, outcome).inc()
    metrics.JOB_DURATION.labels(name).observe(time.monotonic() - started_at)
    log.log(level, "job ended", job=str(job.pk), task=name, outcome=outcome, done=job.done)
    _store_outcome(job, outcome, error)


def _call(job: Job, name: str) -> tuple[str, str]:
    """Call the task. Return the outcome, and the description of the exception, if any."""
    if job.attempts > MAX_ATTEMPTS:  # it may be what ends the workers, for example because it uses all memory
        log.error("job failed", job=str(job.pk), task=name, attempt=job.attempts, reason=_NO_OUTCOME)
        return "failed", _NO_OUTCOME
    try:
        with running(job):
            load(job.task).call(**job.arguments)
    except Interrupted:
        return "interrupted", ""
    except LeaseLost:
        return "lease_lost", ""
    except BaseException as exception:  # also SystemExit, with which Dramatiq would log the text of the exception
        # The connection may be broken, or have a lock or a setting of the session.
        connections.close_all()
        error = _describe(exception)
        outcome = "retried" if job.attempts < MAX_ATTEMPTS else "failed"
        details: dict[str, Any] = {} if is_outage(exception) else {"exc_info": True}
        log.error("job failed", job=str(job.pk), task=name, attempt=job.attempts, reason=error, **details)
        return outcome, error
    return "succeeded", ""


def _describe(error: BaseException) -> str:
    """Return the class and the SQLSTATE. The text of an exception could contain PHI."""
    code = sqlstate(error)
    return f"{type(error).__name__}{f' (SQLSTATE {code})' if code else ''}"[:200]


def _store_outcome(job: Job, outcome: str, error: str) -> None:
    """Record the outcome, unless another worker has taken the job over."""
    values: dict[str, Any] = {"lease": None, "leased_until": None, "sent_at": None, "updated_at": Now()}
    if outcome == "interrupted":  # it says nothing about the job, so the attempt does not count
        values |= {"status": Job.Status.QUEUED, "attempts": Greatest(F("attempts") - 1, 0)}
    elif outcome == "retried":
        delay = _RETRY_DELAY * 4 ** max(job.attempts - 1, 0)
        values |= {"status": Job.Status.QUEUED, "run_after": Now() + delay, "error": error}
    elif outcome in ("succeeded", "failed"):
        values |= {"status": Job.Status(outcome), "finished_at": Now(), "error": error}
        if job.is_scheduled and job.started_at:
            next_run = schedule.next_run(job.task, job.started_at)
            values |= {"status": Job.Status.QUEUED, "run_after": next_run, "attempts": 0}
    if outcome == "succeeded":
        values |= {"result": job.result, "done": job.done, "total": job.total}
    if outcome != "lease_lost":
        Job.objects.filter(pk=job.pk, lease=job.lease).update(**values)
