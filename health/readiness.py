"""The readiness of this process: the one runner of its checks, what it tells the log and the metrics, and the report.

A process starts no thread and opens no connection here before somebody asks.
"""

import logging
import os
import threading
import time
from typing import Any

import structlog
from django.conf import settings

from core.api.envelope import timestamp
from core.clients import redis_url
from health import metrics
from health.check_runner import Report, Runner
from health.checks import checks, failure_reasons
from health.multiprocess import check_history as history
from health.multiprocess import draining
from health.multiprocess import worker_slots as workers

log = structlog.stdlib.get_logger("voiceassist.readiness")

_EVERY = 2.0  # seconds between two signs of life of a worker


def explain(error: Exception) -> tuple[str, str]:
    """Returns the reason and a detail without credentials."""
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
    """Returns the contract's report. What a failure was is only `for_staff`: an anonymous client gets the reason."""
    return {
        "status": status(report),
        "dependencies": {
            result.name: {
                "status": result.status,
                "critical": result.critical,
                "latency_ms": result.latency_ms,
                "reason": result.reason,
                **({"detail": result.detail, "version": result.version} if for_staff else {}),
            }
            for result in report.results
        },
        "checked_at": timestamp(report.checked_at),
    }


def observe(before: Report | None, now: Report) -> None:
    """Measures every report and logs what changed: a line a change, not a line a probe."""
    metrics.measure(now)
    _remember(now)
    known = {result.name: result for result in before.results} if before else {}
    for result in now.results:
        last = known.get(result.name)
        if result.reason == (last.reason if last else None):
            continue
        was = last.status if last else "unknown"
        state = f"unhealthy ({result.reason})" if result.reason else "healthy"
        level = logging.ERROR if result.reason else logging.INFO
        log.log(level, f"{result.name}: {was} → {state}", detail=result.detail)


_forgetful = False


def _remember(report: Report) -> None:
    """A probe is answered whatever becomes of the history, and it tells the log of that once."""
    global _forgetful
    try:
        history.record(report)
        _forgetful = False
    except Exception:
        if not _forgetful:
            log.exception("the status page's history can't be written")
        _forgetful = True


def _make() -> Runner:
    timeout, max_age = settings.HEALTH_TIMEOUT, settings.HEALTH_MAX_AGE
    return Runner(checks(), timeout=timeout, max_age=max_age, explain=explain, observe=observe)


_runner = _make()


def runner() -> Runner:
    """Returns the one of this process."""
    return _runner


def follow() -> None:
    """In a worker of a server: from now on it gives signs of life, and checks while somebody looks at all workers.

    Otherwise it would show on the status page what it found when it was last probed, which may be long ago.
    """
    threading.Thread(target=_follow, name="follow", daemon=True).start()


def _follow() -> None:
    while True:
        workers.beat()
        try:
            if workers.watched():
                _runner.report()
        except Exception:  # a probe that meets it answers 500; this goes on
            log.exception("the checks for the status page failed")
        time.sleep(_EVERY)


def _renew() -> None:
    global _runner
    _runner = _make()
    history.renew()


# A process that was forked after somebody asked has none of its parent's threads, and may have its lock.
os.register_at_fork(after_in_child=_renew)
