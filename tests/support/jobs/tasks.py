"""Tasks with effects that the tests can count."""

import os
import signal
import time
from uuid import UUID

from django.db import connection
from django_tasks import task

from core.jobs.progress import batch
from core.models import Session

TEXT = "canary-exception"  # of an exception, which may contain PHI


@task()
def archive(user_id: UUID | str, size: int = 1, milliseconds: int = 0) -> None:
    """Archive the sessions of a user, `size` of them in each transaction."""
    remaining = Session.objects.filter(user_id=user_id, is_archived=False).order_by("pk")
    while keys := list(remaining.values_list("pk", flat=True)[:size]):
        with batch() as job:
            job.done += Session.objects.filter(pk__in=keys).update(is_archived=True)
            time.sleep(milliseconds / 1000)


@task()
def add_session(user_id: UUID | str) -> None:
    """Not idempotent, so that each run counts."""
    with batch() as job:
        Session.objects.create(user_id=user_id)
        job.done += 1


@task()
def add_session_slowly(user_id: UUID | str, milliseconds: int) -> None:
    """Wait inside the transaction, before any row is locked."""
    with batch():
        time.sleep(milliseconds / 1000)
        Session.objects.create(user_id=user_id)


@task()
def sleep(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


@task()
def fail(times: int, user_id: UUID | str) -> None:
    """Fail unless the user has `times` sessions, and add one."""
    with batch():
        number = Session.objects.filter(user_id=user_id).count()
        if number == times:
            return
    with batch():
        Session.objects.create(user_id=user_id)
    raise ValueError(TEXT)


@task()
def fail_in_batch(user_id: UUID | str) -> None:
    with batch() as job:
        job.done += 1
        Session.objects.create(user_id=user_id, title=TEXT)
        raise ValueError(TEXT)


@task()
def exit_process() -> None:
    raise SystemExit(TEXT)


@task()
def run_out_of_memory() -> None:
    raise MemoryError(TEXT)


@task()
def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task()
def statement_with_text() -> None:
    """Fail with an error of PostgreSQL that quotes a value."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::text::integer", [TEXT])


@task()
def leave_session_state() -> None:
    """Leave a lock of the session, then fail."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(4711)")
    raise ValueError(TEXT)


@task()
def not_yet(user_id: UUID | str, new_argument: int = 0) -> None:
    """Stands for a task of a newer release, see `fast_worker.py`."""
    add_session.call(user_id)
