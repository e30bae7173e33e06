"""Run the readiness checks of this process, and log and record their reports.

No thread is started and no connection is opened before the first call of `runner().report()`.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import structlog
from django.conf import settings

from core.api.envelope import encode, timestamp
from core.clients import redis_url
from health import database_warnings, job_counts, metrics
from health.check_runner import Report, Result
from health.checks import checks, failure_reasons, root_cause
from health.early_refresh import RefreshingRunner
from health.multiprocess import draining, worker_states

log = structlog.stdlib.get_logger("voiceassist.readiness")

_HEARTBEAT_INTERVAL = 2.0  # seconds
_STAFF_FIELDS = ("detail", "version", "transport", "usage")


def explain(error: Exception) -> tuple[str, str]:
    """Return the reason of a failure, and a detail without credentials."""
    reason, detail = failure_reasons.explain(error)
    for secret in _secrets():
        detail = detail.replace(secret, "***")
    return reason, detail


def _secrets() -> set[str]:
    known = {settings.DATABASES["default"].get("PASSWORD"), settings.QDRANT_API_KEY}
    return {str(secret) for secret in known if secret} | redis_url.passwords(settings.REDIS_URL)


def status(report: Report) -> str:
    return "draining" if draining.is_draining() else report.status


def as_dict(report: Report, *, for_staff: bool = False) -> dict[str, Any]:
    """Return the report of the contract. Details of the dependencies are included only `for_staff`."""
    return {
        "status": status(report),
        "dependencies": {
            result.name: {
                "status": result.status,
                "critical": result.critical,
                "latency_ms": result.latency_ms,
                "reason": result.reason,
                **(_staff_fields(result) if for_staff else {}),
            }
            for result in report.results
        },
        "checked_at": timestamp(report.checked_at),
    }


@lru_cache(maxsize=2)
def encode_ready(report: Report) -> str:
    """Return the JSON of a report without critical failures. Encoding takes a tenth of the time of /ready."""
    return encode({**as_dict(report), "status": report.status})  # also if the server begins to drain now


def _staff_fields(result: Result) -> dict[str, Any]:
    expires_at = result.certificate_expires_at
    expiry = timestamp(datetime.fromtimestamp(expires_at, UTC)) if expires_at is not None else None
    return {**{name: getattr(result, name) for name in _STAFF_FIELDS}, "certificate_expires_at": expiry}


_last_checked: dict[str, Result] = {}  # by name


def observe(report: Report) -> None:
    """Record a new report, and log each dependency that changed since it was last checked."""
    with _logging_failures("measuring a report"):
        metrics.measure(report)
    with _logging_failures("recording a report"):
        worker_states.record(report)
    with _logging_failures("recording warnings about the database"):
        database_warnings.observe()
    with _logging_failures("measuring jobs"):
        job_counts.observe()
    for result in report.results:
        if result.cause:  # the line of the cause suffices
            continue
        last, _last_checked[result.name] = _last_checked.get(result.name), result
        if result.reason == (last.reason if last else None):
            continue
        old_state = last.status if last else "unknown"
        new_state = f"unhealthy ({result.reason})" if result.reason else "healthy"
        failure_level = logging.ERROR if result.critical else logging.WARNING
        level = failure_level if result.reason else logging.INFO
        log.log(level, f"{result.name}: {old_state} → {new_state}", detail=result.detail)


_failing: set[str] = set()  # names of blocks whose last run failed


@contextmanager
def _logging_failures(name: str) -> Iterator[None]:
    """Log an exception instead of raising it, because a full disk must not fail a probe. Log repeated failures once."""
    try:
        yield
        _failing.discard(name)
    except Exception:
        if name not in _failing:
            log.exception(f"{name} failed")
        _failing.add(name)


def _make_runner() -> RefreshingRunner:
    timeout, max_age = settings.HEALTH_TIMEOUT, settings.HEALTH_MAX_AGE
    return RefreshingRunner(
        checks(), timeout=timeout, max_age=max_age, explain=explain, attribute=root_cause.attribute, observe=observe
    )


_runner = _make_runner()


def runner() -> RefreshingRunner:
    """Return the runner of this process."""
    return _runner


def start_background_thread() -> None:
    """Run the checks at the start and while the status page is open, and publish the state of this worker regularly.

    The first run logs what is wrong without waiting for a probe. Without the others, the page would show the results of
    the worker's last probe, which may be old.
    """
    threading.Thread(target=_run_in_background, name="readiness", daemon=True).start()


def _run_in_background() -> None:
    is_starting = True
    while True:
        with _logging_failures("publishing the state of this worker"):
            worker_states.publish()
        with _logging_failures("checking in the background"):
            if is_starting or worker_states.is_page_open():
                _runner.report()
        is_starting = False
        time.sleep(_HEARTBEAT_INTERVAL)


def _reset_after_fork() -> None:
    global _runner
    _runner = _make_runner()
    _last_checked.clear()
    worker_states.reset_after_fork()


# A forked child has none of its parent's threads, so a lock that one of them held would stay locked.
os.register_at_fork(after_in_child=_reset_after_fork)
