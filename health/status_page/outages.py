"""The recent outages that the workers recorded, as rows of the status page."""

from dataclasses import asdict
from typing import Any

from health.multiprocess.worker_states import WorkerState

MAX_SHOWN = 8
_MAX_GAP = 15.0  # seconds; outages with a shorter gap, recorded by different workers, count as one


def merge(workers: list[WorkerState], now: float) -> list[dict[str, Any]]:
    """Return the outages that workers recorded, latest first. `until` is `now` for an ongoing outage.

    Outages of one dependency with the same reason at overlapping times are one outage, recorded by several workers.
    """
    merged: list[dict[str, Any]] = []
    latest: dict[tuple[str, str | None], dict[str, Any]] = {}
    states = [(state, worker) for worker in workers for state in [*worker.past_outages, *worker.dependencies.values()]]
    for outage, worker in sorted(states, key=lambda pair: pair[0].since):
        if not outage.has_failed:
            continue
        # A worker that no longer runs checks can't report the recovery, so its outage ends at its last check.
        until = outage.until or (now if worker.is_current else worker.checked_at)
        row = latest.get((outage.name, outage.reason))
        if row is None or outage.since > row["until"] + _MAX_GAP:
            row = {**asdict(outage), "until": until, "workers": set()}
            latest[outage.name, outage.reason] = row
            merged.append(row)
        row["until"] = max(row["until"], until)
        row["workers"].add(worker.pid)
    return merged[::-1]
