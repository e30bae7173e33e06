"""The template context of the status page, merged from the states of all workers.

Workers may disagree, because each has its own connections. The page then shows how many workers report each state.
"""

import platform
import socket
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import django
from django.conf import settings

from health import database_warnings
from health.check_runner import Report
from health.checks import ENDPOINTS
from health.checks.failure_reasons import HINTS
from health.multiprocess import draining, worker_states
from health.multiprocess.worker_states import WorkerState
from health.status_page import sparkline

_MAX_OUTAGES = 8
_MAX_OUTAGE_GAP = 15.0  # seconds; outages with a shorter gap, recorded by different workers, count as one

# The label, an explanation, and the CSS class, which also determines the icon.
OVERALL_STATUSES = {
    "ready": ("Ready", "All dependencies are healthy.", "ok"),
    "degraded": ("Degraded", "An optional dependency is down. The server works without it.", "warning"),
    "not_ready": ("Not ready", "A critical dependency is down: /ready returns 503.", "error"),
    "draining": ("Draining", "The server is shutting down. It finishes the requests in flight, then exits.", "warning"),
    "mixed": ("Workers disagree", "A dependency fails in some workers and not in others.", "error"),
}


def build(report: Report) -> dict[str, Any]:
    """Return the context. `report` is this worker's latest report."""
    worker_states.record(report)  # does nothing, unless another thread made the report and has not recorded it yet
    workers, now = worker_states.read_all(), time.time()
    current = [worker for worker in workers if worker.is_current]
    outages = _merge_outages(workers, now)
    dependencies = [_dependency(result.name, workers, current, outages, now) for result in report.results]
    failures = [f"{row['name']} ({row['reasons']})" for row in dependencies if row["reasons"]]
    details = f"Not healthy: {', '.join(failures)}. " if failures else ""
    alive, configured = sum(worker.is_alive for worker in workers), worker_states.worker_count()
    if alive < configured:
        details += f"Workers alive: {alive} of {configured}."
    label, explanation, severity = OVERALL_STATUSES[_overall_status(current)]
    return {
        "overall": {"label": label, "explanation": explanation, "severity": severity, "details": details},
        "dependencies": dependencies,
        "database_warnings": list(database_warnings.current.values()),
        "outages": outages[:_MAX_OUTAGES],
        "workers": [worker for worker in workers if not worker.is_dead],
        "alive": alive,
        "configured": configured,
        "server": {
            "version": settings.VERSION,
            "commit": settings.COMMIT,
            "built_at": settings.BUILT_AT,
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "django": django.__version__,
            "started_at": worker_states.SERVER_STARTED_AT,
        },
        "now": now,
        "minutes": worker_states.BUCKET_SECONDS * worker_states.MAX_BUCKETS // 60,
    }


def _overall_status(current: list[WorkerState]) -> str:
    statuses = {worker.status for worker in current}
    return "draining" if draining.is_draining() else statuses.pop() if len(statuses) == 1 else "mixed"


def _merge_outages(workers: list[WorkerState], now: float) -> list[dict[str, Any]]:
    """Return the outages that workers recorded, latest first. `until` is `now` for an ongoing outage.

    Outages of one dependency with the same reason at overlapping times are one outage, recorded by several workers.
    """
    merged: list[dict[str, Any]] = []
    latest: dict[tuple[str, str | None], dict[str, Any]] = {}
    states = [(state, worker) for worker in workers for state in [*worker.past_outages, *worker.dependencies.values()]]
    for outage, worker in sorted(states, key=lambda pair: pair[0].since):
        if outage.healthy:
            continue
        # A worker that no longer runs checks can't report the recovery, so its outage ends at its last check.
        until = outage.until or (now if worker.is_current else worker.checked_at)
        row = latest.get((outage.name, outage.reason))
        if row is None or outage.since > row["until"] + _MAX_OUTAGE_GAP:
            row = {**asdict(outage), "until": until, "workers": set()}
            latest[outage.name, outage.reason] = row
            merged.append(row)
        row["until"] = max(row["until"], until)
        row["workers"].add(worker.pid)
    return merged[::-1]


def _dependency(
    name: str, workers: list[WorkerState], current: list[WorkerState], outages: list[dict[str, Any]], now: float
) -> dict[str, Any]:
    """Return a row of the table of dependencies."""
    states = [worker.dependencies[name] for worker in current if name in worker.dependencies]
    failing = [state for state in states if state.reason]
    reasons = Counter(state.reason for state in failing if state.reason)
    details = {state.reason: state.detail for state in failing}
    shown = (failing or states)[0]
    # An earlier worker may have seen the state first, unless an outage started or ended in the meantime.
    earlier = [worker.dependencies[name] for worker in workers if name in worker.dependencies]
    first_seen = min(state.since for state in earlier if bool(state.reason) == bool(failing))
    changes = [row["since"] if row["until"] == now else row["until"] for row in outages if row["name"] == name]
    label = "Unhealthy" if failing else "Healthy"
    endpoint = ENDPOINTS[name]()
    return {
        "name": name,
        "is_critical": shown.critical,
        "severity": "ok" if not failing else "error" if shown.critical else "warning",
        "label": label if len(failing) in (0, len(states)) else f"{label} in {len(failing)} of {len(states)} workers",
        "problems": [(reason, HINTS[reason], details[reason], count) for reason, count in reasons.items()],
        "reasons": ", ".join(reasons),
        "worker_count": len(states),
        "since": max([first_seen, *changes]),
        "latency_ms": max(state.latency_ms for state in states),
        "version": next((state.version for state in states if state.version), None),
        "transport": next((state.transport for state in states if state.transport), ""),
        "endpoint": endpoint,
        "extra_detail": "" if failing or shown.detail == endpoint else shown.detail,
        "usage": next((state.usage for state in states if state.usage), ""),
        "certificate_expires_at": min(
            (state.certificate_expires_at for state in states if state.certificate_expires_at is not None), default=None
        ),
        "graph": sparkline.draw(worker.latencies.get(name, []) for worker in workers),
    }
