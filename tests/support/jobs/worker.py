"""A worker with short times and with the tasks of the tests."""

import json
from typing import Any

from tests.support.polling import SLOWNESS
from tests.support.worker_process import WorkerProcess

LEASE = 3 * SLOWNESS  # seconds
SCHEDULE = {"core.jobs.schedule.SCHEDULE": "unchanged"}  # runs scheduled jobs too
FAST = {
    "core.jobs.schedule.SCHEDULE": [],
    "core.jobs.worker._INTERVAL": 0.2,
    "core.jobs.progress.LEASE": LEASE,
    "core.jobs.execution.LEASE": LEASE,
    "core.jobs.execution._RETRY_DELAY": 0.1,
    "core.jobs.queue._SEND_AGAIN": 2,
}


class Worker(WorkerProcess):
    """A context manager that runs a worker. `constants` are added to `FAST`, see `tests.support.jobs.fast_worker`."""

    def __init__(self, *options: str, constants: dict[str, Any] | None = None, **arguments: Any) -> None:
        program = ["-m", "tests.support.jobs.fast_worker", json.dumps(FAST | (constants or {}))]
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.support.jobs.settings",
            "dramatiq_restart_delay": "100",  # milliseconds
        }
        super().__init__(*options, program=program, **environment | arguments)
