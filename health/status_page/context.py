"""The template context of the status page, merged from the states of all workers.

Workers may disagree, because each has its own connections. The page then shows how many workers report each state.
"""

import platform
import socket
import time
from typing import Any

import django
from django.conf import settings

from health import database_warnings
from health.check_runner import Report
from health.multiprocess import draining, worker_states
from health.multiprocess.worker_states import WorkerState
from health.status_page import dependencies, outages, runbook

# The label, an explanation, and the CSS class, which also determines the icon.
OVERALL_STATUSES = {
    "ready": ("Ready", "All dependencies are healthy.", "ok"),
    "degraded": ("Degraded", "The server is working, but an optional dependency is failing.", "warning"),
    "not_ready": (
        "Not ready",
        "A required dependency is failing. /ready returns 503, so load balancers send no traffic here.",
        "error",
    ),
    "draining": ("Draining", "Shutting down: finishing requests in progress.", "warning"),
    "mixed": ("Workers disagree", "Some workers see a failure that others don't.", "error"),
}


def build(report: Report) -> dict[str, Any]:
    """Return the context. `report` is this worker's latest report."""
    worker_states.record(report)  # does nothing, unless another thread made the report and has not recorded it yet
    workers, now = worker_states.read_all(), time.time()
    current = [worker for worker in workers if worker.is_current]
    merged = outages.merge(workers, now)
    rows = dependencies.rows([result.name for result in report.results], workers, current, merged, now)
    failures = [f"{row['name']} ({row['reasons']})" for row in rows if row["reasons"]]
    details = f"Not healthy: {', '.join(failures)}. " if failures else ""
    alive, configured = sum(worker.is_alive for worker in workers), worker_states.worker_count()
    if alive < configured:
        details += f"Workers alive: {alive} of {configured}."
    label, explanation, severity = OVERALL_STATUSES[_overall_status(current)]
    return {
        "overall": {"label": label, "explanation": explanation, "severity": severity, "details": details},
        "dependencies": rows,
        "database_warnings": list(database_warnings.current.values()),
        "runbook": runbook.SECTIONS,
        "outages": merged[: outages.MAX_SHOWN],
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
