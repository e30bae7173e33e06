"""The table of dependencies of the status page: what fails comes first."""

from collections import Counter
from typing import Any

from health.checks import ENDPOINTS
from health.checks.failure_reasons import HINTS
from health.multiprocess.worker_states import DependencyState, WorkerState
from health.status_page import runbook, sparkline

# CSS classes, in the order of the rows. "unknown" is a dependency that could not be checked, because another is down.
SEVERITIES = ("error", "warning", "unknown", "ok")


def rows(
    names: list[str],
    workers: list[WorkerState],
    current: list[WorkerState],
    outages: list[dict[str, Any]],
    now: float,
) -> list[dict[str, Any]]:
    """Return a row for each name. `current` are the workers whose results count."""
    found = [_row(name, workers, current, outages, now) for name in names]
    return sorted(found, key=lambda row: SEVERITIES.index(row["severity"]))


def _row(
    name: str, workers: list[WorkerState], current: list[WorkerState], outages: list[dict[str, Any]], now: float
) -> dict[str, Any]:
    states = [worker.dependencies[name] for worker in current if name in worker.dependencies]
    failing = [state for state in states if state.has_failed]
    not_checked = [] if failing else [state for state in states if state.cause]
    reasons = Counter(state.reason for state in failing if state.reason)
    details = {state.reason: state.detail for state in failing}
    shown = (failing or not_checked or states)[0]
    endpoint = ENDPOINTS[name]()
    return {
        "name": name,
        "is_critical": shown.critical,
        "severity": _severity(shown),
        "label": _label(shown, len(failing or not_checked or states), len(states)),
        "problems": [(reason, HINTS[reason], details[reason], count) for reason, count in reasons.items()],
        "reasons": ", ".join(reasons),
        "runbook": runbook.SECTIONS[name] if failing else None,
        "worker_count": len(states),
        "since": _since(name, shown, workers, outages, now),
        "latency_ms": None if shown.cause else max(state.latency_ms for state in states),
        "version": next((state.version for state in states if state.version), None),
        "transport": next((state.transport for state in states if state.transport), ""),
        "endpoint": endpoint,
        "extra_detail": "" if failing or not_checked or shown.detail == endpoint else shown.detail,
        "usage": next((state.usage for state in states if state.usage), ""),
        "certificate_expires_at": min(
            (state.certificate_expires_at for state in states if state.certificate_expires_at is not None), default=None
        ),
        "graph": sparkline.draw(worker.latencies.get(name, []) for worker in workers),
    }


def _severity(state: DependencyState) -> str:
    if state.cause:
        return "unknown"
    return "ok" if state.healthy else "error" if state.critical else "warning"


def _label(state: DependencyState, count: int, total: int) -> str:
    label = state.detail.capitalize() if state.cause else "Healthy" if state.healthy else "Unhealthy"
    return label if count == total else f"{label} in {count} of {total} workers"


def _since(
    name: str, shown: DependencyState, workers: list[WorkerState], outages: list[dict[str, Any]], now: float
) -> float:
    """Return since when the dependency has been in this state.

    An earlier worker may have seen the state first, unless an outage started or ended in the meantime.
    """
    states = [worker.dependencies[name] for worker in workers if name in worker.dependencies]
    same = [state.since for state in states if (state.healthy, state.cause) == (shown.healthy, shown.cause)]
    own = [row for row in outages if row["name"] == name]
    changes: list[float] = [row["since"] if row["until"] == now else row["until"] for row in own]
    return max([min(same), *changes])
