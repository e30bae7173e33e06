"""Run a job: claim it in the database, call its task, and record the outcome."""

import logging
import time
from datetime import timedelta
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.apps import apps
from django.conf import settings
from django.db import close_old_connections
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now
from django_tasks.base import Task

from core import metrics
from core.clients.outages import is_outage, sqlstate
from core.clients.postgresql.time_limit import request_time_limit
from core.jobs import schedule
from core.jobs.progress import LEASE, Interrupted, LeaseLost, running
from core.models import Job
from core.trace_id import clear_trace_id, get_or_create_trace_id, set_trace_id

log = structlog.stdlib.get_logger("voiceassist.jobs")

MAX_ATTEMPTS = 5  # without progress
_RETRY_DELAY = timedelta(seconds=10)  # doubles with each attempt
IS_DUE = Q(status=Job.Status.QUEUED, run_after__lte=Now()) | Q(status=Job.Status.RUNNING, leased_until__lt=Now())

active: dict[UUID, Job] = {}  # the jobs that this process runs, whose leases the worker renews


def load(path: str) -> "Task[..., Any]":
    """Return a task by its dotted path. Raise ValueError if no installed application has it in its module `tasks`.

    No other module is imported, so that a changed row can't run other code.
    """
    module, _, name = path.rpartition(".")
    task = None
    if module in {f"{config.name}.tasks" for config in apps.get_app_configs()}:
        task = getattr(import_module(module), name, None)
    if not isinstance(task, Task):
        raise ValueError(f"Unknown task {path!r}")
    return task


def cancel(job_id: UUID | str) -> bool:
    """Cancel a job that has not begun. Return False if it has begun or ended."""
    waiting = Job.objects.filter(pk=job_id, status=Job.Status.QUEUED, started_at=None, is_scheduled=False)
    return bool(waiting.update(status=Job.Status.CANCELLED, finished_at=Now(), updated_at=Now()))


def run(job_id: UUID) -> None:
    """Run a job if it is due. Never raise, because an exception's text could contain PHI and Dramatiq would log it."""
    try:
        if job := _claim(job_id):
            _run(job)
    except Exception as error:  # the lease expires, then the job is due again
        details: dict[str, Any] = {"reason": type(error).__name__} if is_outage(error) else {"exc_info": True}
        log.error("the state of a job could not be stored", job=str(job_id), **details)
    finally:
        close_old_connections()


def _claim(job_id: UUID) -> Job | None:
    """Take the lease of a job. Return None if it is not due, for example because another worker runs it."""
    lease = uuid4()
    claimed = Job.objects.filter(IS_DUE, pk=job_id).update(
        status=Job.Status.RUNNING,
        lease=lease,
        leased_until=Now() + LEASE,
        attempts=F("attempts") + 1,
        started_at=Now(),
        finished_at=None,
        updated_at=Now(),
    )
    return Job.objects.get(pk=job_id, lease=lease) if claimed else None


def _run(job: Job) -> None:
    set_trace_id(job.trace_id or get_or_create_trace_id())
    name = job.task.rpartition(".")[2]
    started_at = time.monotonic()
    active[job.pk] = job
    level = logging.DEBUG if job.is_scheduled else logging.INFO  # checkpoints would fill the log
    log.log(level, "job started", job=str(job.pk), task=name, attempt=job.attempts)
    outcome, error = "succeeded", ""
    try:
        with running(job), request_time_limit(settings.DATABASE_TIMEOUT):
            load(job.task).call(**job.arguments)
    except (Interrupted, LeaseLost) as interruption:
        outcome = "interrupted" if isinstance(interruption, Interrupted) else "lease_lost"
    except Exception as exception:
        outcome, error = "failed", _describe(exception)
        details: dict[str, Any] = {} if is_outage(exception) else {"exc_info": True}
        log.error("job failed", job=str(job.pk), task=name, attempt=job.attempts, reason=error, **details)
        if is_outage(exception):
            outcome = "outage"
    finally:
        del active[job.pk]
        close_old_connections()  # the one that failed
        metrics.JOBS.labels(name, outcome).inc()
        metrics.JOB_DURATION.labels(name).observe(time.monotonic() - started_at)
    try:
        _store_outcome(job, outcome, error)
    finally:
        log.log(level, "job ended", job=str(job.pk), task=name, outcome=outcome, done=job.done)
        clear_trace_id()


def _describe(error: Exception) -> str:
    """Return the class and the SQLSTATE. The text of an exception could contain PHI."""
    code = sqlstate(error)
    return f"{type(error).__name__}{f' (SQLSTATE {code})' if code else ''}"[:200]


def _store_outcome(job: Job, outcome: str, error: str) -> None:
    values: dict[str, Any] = {"lease": None, "leased_until": None, "sent_at": None, "updated_at": Now()}
    if outcome == "lease_lost":
        return
    if outcome == "interrupted":
        values |= {"status": Job.Status.QUEUED, "run_after": Now(), "attempts": Greatest(F("attempts") - 1, 0)}
    elif outcome == "outage":  # it says nothing about the job, so it does not count
        values |= {"status": Job.Status.QUEUED, "run_after": Now() + _RETRY_DELAY}
        values["attempts"] = Greatest(F("attempts") - 1, 0)
    elif outcome == "failed" and job.attempts < MAX_ATTEMPTS:
        values |= {"status": Job.Status.QUEUED, "run_after": Now() + _RETRY_DELAY * 2 ** (job.attempts - 1)}
    elif job.is_scheduled:
        next_run = schedule.next_run(job.task)
        values |= {"status": Job.Status.QUEUED, "run_after": next_run, "attempts": 0, "finished_at": Now()}
    else:
        values |= {"status": Job.Status(outcome), "finished_at": Now()}
    if outcome in ("failed", "succeeded"):
        values |= {"error": error, "result": job.result, "done": job.done, "total": job.total}
    Job.objects.filter(pk=job.pk, lease=job.lease).update(**values)
