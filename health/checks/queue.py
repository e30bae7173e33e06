"""Check what background jobs need: their table in PostgreSQL, the queue in Redis, and a worker that runs.

Its failure only degrades, because the server works without: jobs wait in the database until a worker runs again.
"""

import time

import psycopg

from core.clients.postgresql.connection import Connection
from core.jobs.queue import WORKER_TIMEOUT, count_workers
from health import job_counts
from health.check_runner import CheckOutput
from health.checks.failure_reasons import MIGRATIONS_PENDING, NOT_READY, CheckFailed
from health.checks.migrations import connection as postgres_connection
from health.checks.persistent_connection import PersistentConnection
from health.checks.redis import Client, connect, querying


def _count_jobs(connection: Connection, seconds: float) -> None:
    with connection.time_limit(seconds):
        try:
            job_counts.refresh(connection)
        except psycopg.errors.UndefinedTable:
            raise CheckFailed(MIGRATIONS_PENDING, "the table of jobs does not exist") from None


def _count_workers(client: Client, seconds: float) -> None:
    with querying(client, seconds):
        job_counts.current.workers = count_workers(client)


_connection = PersistentConnection(connect)


def queue(seconds: float) -> CheckOutput:
    """Fail if no worker has reported in the last seconds, or if PostgreSQL or Redis can't be asked."""
    deadline = time.monotonic() + seconds
    postgres_connection.run(_count_jobs, seconds)
    _connection.run(_count_workers, deadline - time.monotonic())
    description = job_counts.current.describe()
    if not job_counts.current.workers:
        detail = f"{description}; no worker has reported for {WORKER_TIMEOUT} s. Start one: python manage.py worker"
        raise CheckFailed(NOT_READY, detail)
    return CheckOutput(description)
