"""The process that runs jobs: `manage.py worker`.

The main thread renews leases, puts due jobs into Redis and reports that this worker is alive. Dramatiq's threads fetch
ids from Redis and run the jobs. After SIGTERM or SIGINT a job stops at the end of its batch and is queued again.
"""

import signal
import time
from typing import Any

import dramatiq
import redis
import structlog
from django.conf import settings
from django.db import close_old_connections

from core.clients.outages import is_outage
from core.clients.postgresql.time_limit import request_time_limit
from core.jobs import execution, queue, schedule, worker_http
from core.jobs.progress import is_stopping, renew

log = structlog.stdlib.get_logger("voiceassist.jobs")

THREADS = 4
_INTERVAL = 5.0  # seconds between two rounds of the main thread
_STOP_TIMEOUT = 30.0  # seconds that jobs without batches may take to end


class Worker:
    def __init__(self) -> None:
        self.last_round = time.monotonic()
        self._is_schedule_stored = False
        self._failing: set[str] = set()  # names of steps whose last call failed

    def run(self, bind: tuple[str, int] | None) -> None:
        """Run jobs until SIGTERM or SIGINT. Serve /health and /metrics at the host and port `bind`, if any."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: is_stopping.set())
        if bind:
            worker_http.serve(*bind, lambda: self.last_round)
        dramatiq_worker = dramatiq.Worker(queue.broker(), worker_threads=THREADS)
        dramatiq_worker.queue_prefetch = THREADS  # an id that waits in this process would not reach an idle worker
        dramatiq_worker.start()
        log.info("worker started", threads=THREADS)
        while not is_stopping.is_set():
            self._do_round()
            is_stopping.wait(_INTERVAL)
        log.info("worker stops", jobs=len(execution.active))
        dramatiq_worker.stop(timeout=int(_STOP_TIMEOUT * 1000))
        queue.remove_worker()
        log.info("worker stopped")

    def _do_round(self) -> None:
        with request_time_limit(settings.DATABASE_TIMEOUT):
            for name, step in (
                ("store the schedule", self._store_schedule),
                ("renew the leases", self._renew_leases),
                ("send due jobs", queue.send_due_jobs),
                ("report this worker", queue.report_worker),
            ):
                self._do(name, step)
        close_old_connections()
        self.last_round = time.monotonic()

    def _do(self, name: str, step: Any) -> None:
        """Call a step. Log the first of repeated failures, because an outage ends without help."""
        try:
            step()
            self._failing.discard(name)
        except Exception as error:
            if name not in self._failing:
                is_expected = is_outage(error) or isinstance(error, redis.RedisError)
                details = {"reason": type(error).__name__} if is_expected else {"exc_info": True}
                log.error(f"the worker could not {name}", **details)
            self._failing.add(name)
            close_old_connections()

    def _store_schedule(self) -> None:
        if not self._is_schedule_stored:
            schedule.store_schedule()
            self._is_schedule_stored = True

    def _renew_leases(self) -> None:
        for job in list(execution.active.values()):
            renew(job)
