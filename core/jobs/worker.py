"""The process that runs jobs: `manage.py worker`.

    main thread           waits for SIGTERM, SIGINT or SIGHUP, then stops the others
    housekeeping thread   renews leases, starts scheduled jobs, puts due jobs into Redis, reports this worker
    Dramatiq's threads    fetch ids from Redis and run the jobs
    scheduled jobs        run in a thread each, so that neither a long queue nor an outage of Redis delays them

After a signal, a job stops at the end of its batch and is queued again. A job without batches has 30 seconds to end;
afterwards its lease expires. Another Ctrl-C ends the process at once.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import dramatiq
import redis
import structlog
from django.conf import settings
from django.db import close_old_connections, connections

from core.clients.outages import is_outage, sqlstate
from core.clients.postgresql.time_limit import request_time_limit
from core.jobs import execution, queue, schedule
from core.jobs.progress import RunningJob, is_stopping, renew, running_jobs
from core.models import Job

log = structlog.stdlib.get_logger("voiceassist.jobs")

THREADS = 4
_INTERVAL = 5.0  # seconds between two rounds of the housekeeping thread
STOP_TIMEOUT = 30.0  # seconds that jobs without batches may take to end
MAX_TIME_WITHOUT_PROGRESS = 3600.0  # seconds
_MISSING_TABLE_OR_COLUMN = ("42P01", "42703")  # SQLSTATEs before `migrate`


class Worker:
    """Create it before any thread is started, because it blocks the signals, which threads inherit.

    The signals are blocked, because a handler could interrupt code of the main thread that holds a lock.
    """

    def __init__(self) -> None:
        self._signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
            self._signals.remove(signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self.last_round = time.monotonic()
        self._failing: set[str] = set()  # what failed in the last round
        self._scheduled: dict[UUID, threading.Thread] = {}
        self._has_hung_job = False

    def run(self) -> bool:
        """Run jobs until a signal. Return False if a job hung, so that the process has to end to free its thread."""
        dramatiq_worker = dramatiq.Worker(queue.broker(), worker_threads=THREADS)
        dramatiq_worker.queue_prefetch = THREADS  # an id that waits in this process would not reach an idle worker
        dramatiq_worker.start()
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()
        log.info("worker started", threads=THREADS)
        signal.sigwait(self._signals)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._stop(dramatiq_worker)
        return not self._has_hung_job

    def _stop(self, dramatiq_worker: dramatiq.Worker) -> None:
        is_stopping.set()
        log.info("worker stops", jobs=len(running_jobs))
        deadline = time.monotonic() + STOP_TIMEOUT
        with suppress(redis.RedisError):  # it could not put fetched ids back, which are sent again
            dramatiq_worker.stop(timeout=int(STOP_TIMEOUT * 1000))
        for thread in list(self._scheduled.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        queue.remove_worker()
        log.info("worker stopped", left=len(running_jobs))

    def _keep_house(self) -> None:
        """Run until the process ends, because leases are renewed also while the worker stops."""
        while True:
            with request_time_limit(settings.DATABASE_TIMEOUT):
                can_use_database = self._try("use PostgreSQL", self._use_database)
                if not is_stopping.is_set() and self._try("report to Redis", queue.report_worker):
                    self._try("clean up in Redis", queue.remove_ended_clients)
                    if can_use_database:
                        self._try("put jobs into Redis", queue.send_due_jobs)
            close_old_connections()
            self.last_round = time.monotonic()
            time.sleep(_INTERVAL)

    def _try(self, name: str, step: Callable[[], None]) -> bool:
        """Call a step and return whether it succeeded. Log the first of repeated failures, and its end."""
        try:
            step()
        except Exception as error:
            if name not in self._failing:
                is_expected = is_outage(error) or isinstance(error, redis.RedisError)
                is_unmigrated = sqlstate(error) in _MISSING_TABLE_OR_COLUMN
                details = {} if is_expected or is_unmigrated else {"exc_info": True}
                hint = {"hint": "Run manage.py migrate."} if is_unmigrated else {}
                reason = type(error).__name__
                log.error(f"The worker can't {name}. It tries again.", reason=reason, **hint, **details)
            self._failing.add(name)
            connections.close_all()
            return False
        if name in self._failing:
            log.info(f"The worker can {name} again.")
            self._failing.remove(name)
        return True

    def _use_database(self) -> None:
        for running_job in list(running_jobs.values()):
            if time.monotonic() - running_job.progressed_at < MAX_TIME_WITHOUT_PROGRESS:
                renew(running_job.job)
            else:
                self._end_because_of(running_job)
        if not is_stopping.is_set():
            schedule.store_schedule()
            self._start_scheduled_jobs()

    def _start_scheduled_jobs(self) -> None:
        self._scheduled = {key: thread for key, thread in self._scheduled.items() if thread.is_alive()}
        for key in Job.objects.filter(execution.IS_DUE, is_scheduled=True).values_list("pk", flat=True):
            if key not in self._scheduled:
                thread = threading.Thread(target=_run_in_new_thread, args=(key,), name="scheduled-job", daemon=True)
                self._scheduled[key] = thread
                thread.start()

    def _end_because_of(self, running_job: RunningJob) -> None:
        """End this process, because nothing else ends a thread. Without a renewal the lease of the job expires."""
        if self._has_hung_job:
            return
        self._has_hung_job = True
        job = running_job.job
        frame = sys._current_frames().get(running_job.thread)
        frames = [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]
        log.error("A job made no progress for an hour. The worker ends.", job=str(job.pk), task=job.task, frames=frames)
        os.kill(os.getpid(), signal.SIGTERM)


def _run_in_new_thread(job_id: UUID) -> None:
    try:
        execution.run(job_id)
    finally:
        connections.close_all()
