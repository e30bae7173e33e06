"""How many workers run, how many jobs are due or failed, and how old the oldest due job is.

The check `queue` reads the numbers. They are published as metrics, which stay readable while everything is down.
"""

from dataclasses import dataclass

from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import ReadOnly
from health import metrics

MAX_COUNTED = 10_000  # so that a check takes milliseconds whatever the table contains

# A running job is due again when the lease of its worker has expired. A scheduled task that fails is queued again, so
# its last error counts instead of its status. Each part uses a partial index.
_QUERY = f"""
    WITH due AS (
        SELECT CASE status WHEN 'queued' THEN run_after ELSE leased_until END AS since
        FROM jobs
        WHERE status IN ('queued', 'running') AND run_after <= now() AND (status = 'queued' OR leased_until < now())
        ORDER BY run_after LIMIT {MAX_COUNTED}
    ), failed AS (
        SELECT 1 FROM jobs WHERE status = 'failed' AND finished_at > now() - interval '1 day' LIMIT {MAX_COUNTED}
    )
    SELECT count(*),
           coalesce(extract(epoch FROM now() - min(since)), 0)::float,
           (SELECT count(*) FROM failed) + (SELECT count(*) FROM jobs WHERE is_scheduled AND error <> ''),
           current_setting('transaction_read_only')
    FROM due
"""


@dataclass(slots=True)
class JobCounts:
    """The last known numbers. None means that they have never been read."""

    workers: int | None = None
    due: int | None = None
    oldest_seconds: float | None = None  # 0 if no job is due
    failed: int | None = None  # in the last day

    def describe(self) -> str:
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        jobs = f"{self.due} job{'' if self.due == 1 else 's'} due"
        return f"{workers}, {jobs}" + (f", oldest {self.oldest_seconds:.0f} s" if self.due else "")


current = JobCounts()


def refresh(connection: Connection) -> None:
    """Count the jobs. The caller limits the time. Raise ReadOnly if the server is a standby, whose jobs may be old."""
    row = connection.execute(_QUERY).fetchone()
    assert row
    *counts, read_only = row
    if read_only != "off":
        # The retry of the check on a new connection finds the new primary after a failover.
        raise ReadOnly("the session is read-only")
    current.due, current.oldest_seconds, current.failed = counts


def observe() -> None:
    """Publish the last known numbers."""
    metrics.measure_jobs(current.workers, current.due, current.oldest_seconds, current.failed)
