"""What our configuration changes in gunicorn's master process, and failures of its hooks."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("voiceassist.server")


@contextmanager
def logging_failures(message: str) -> Iterator[None]:
    """Log an exception instead of raising it, because in a hook it would end the master and all workers."""
    try:
        yield
    except Exception:
        log.exception(message)


def survive_failed_starts_of_workers(master: Any) -> None:
    """Make the master log an OSError that prevents the start of a worker.

    Gunicorn would end, with all other workers, because the system lacks a process, a descriptor, memory or an inode at
    that moment. Its main loop tries again every second.
    """
    spawn_worker, is_failing = master.spawn_worker, False

    def spawn_or_log() -> None:
        nonlocal is_failing
        try:
            spawn_worker()  # returns only in the master, the worker exits in it
            is_failing = False
        except OSError as error:
            if os.getpid() != master.pid:
                raise
            if not is_failing:
                log.error(f"A worker can't be started ({error.strerror}). The server tries again every second.")
            is_failing = True

    master.spawn_worker = spawn_or_log
