"""The readiness state of each worker, for the status page, which any worker may render.

A probe updates only the worker's own WorkerState, in memory. The worker's background thread regularly writes it to a
file in the runtime folder, so that the file's modification time is the worker's heartbeat. The page reads the files of
all workers.

    state_17.json     worker 17              worker_count     configured number of workers
    dead_16.json      worker 16, which died  page_viewed      touched whenever the page is rendered

Without gunicorn there is no runtime folder, and the state of the only process stays in memory.
"""

import json
import os
import threading
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from django.conf import settings

from health.check_runner import Report, Result
from health.multiprocess import runtime_folder

_HEARTBEAT_TIMEOUT = 6.0  # seconds; HEALTH_TIMEOUT is added, because the background thread waits for checks too
_MAX_AGE = 15.0  # seconds after which a worker's results, or the last view of the page, no longer count
BUCKET_SECONDS, MAX_BUCKETS = 5, 60  # latencies of the last five minutes
_MAX_OUTAGES = 8  # per worker
_MAX_DEAD_WORKERS = 8
_MAX_DETAIL = 200  # characters

SERVER_STARTED_AT = time.time()  # gunicorn's master imports this module

Bucket = tuple[int, float, bool]  # number since 1970, slowest check in milliseconds, whether one failed


@dataclass(frozen=True, slots=True)
class DependencyState(Result):
    """The latest result of a dependency, and the time since which it has been healthy or failed for this reason."""

    since: float = 0.0  # like all times in this module, from time.time()
    until: float | None = None  # set only for an outage that has ended


@dataclass(slots=True)
class WorkerState:
    pid: int = field(default_factory=os.getpid)
    started_at: float = field(default_factory=time.time)
    checked_at: float = 0.0
    status: str = ""  # of the last report
    dependencies: dict[str, DependencyState] = field(default_factory=dict)
    past_outages: list[DependencyState] = field(default_factory=list)
    latencies: dict[str, list[Bucket]] = field(default_factory=dict)
    heartbeat_at: float = 0.0
    is_dead: bool = False

    @property
    def is_alive(self) -> bool:
        max_age = _HEARTBEAT_TIMEOUT + settings.HEALTH_TIMEOUT
        return self._is_own or (not self.is_dead and time.time() - self.heartbeat_at < max_age)

    @property
    def is_current(self) -> bool:
        max_age = _MAX_AGE + settings.HEALTH_TIMEOUT + settings.HEALTH_MAX_AGE
        return self._is_own or (self.is_alive and time.time() - self.checked_at < max_age)

    @property
    def _is_own(self) -> bool:
        return self.pid == os.getpid() and not self.is_dead  # a dead worker may have had the same pid

    @property
    def summary(self) -> str:
        failing = [f"{state.name}: {state.reason}" for state in self.dependencies.values() if state.has_failed]
        return ", ".join(failing) or ("all healthy" if self.dependencies else "")


_own, _lock, _last_recorded = WorkerState(), threading.Lock(), 0.0


def reset_after_fork() -> None:
    """Start with an empty state and a new lock, because another thread of the parent may have locked the old one."""
    global _own, _lock, _last_recorded
    _own, _lock, _last_recorded = WorkerState(), threading.Lock(), 0.0


def record(report: Report) -> None:
    """Add a report to this worker's state, unless it or a later one has already been added."""
    global _last_recorded
    with _lock:
        if report.finished_at <= _last_recorded:
            return
        _last_recorded = report.finished_at
        _own.checked_at, _own.status = report.checked_at.timestamp(), report.status
        for result in report.results:
            _record_result(result, _own.checked_at)


def _record_result(result: Result, now: float) -> None:
    before = _own.dependencies.get(result.name)
    is_same = before is not None and (before.reason, before.cause) == (result.reason, result.cause)
    if before and before.has_failed and not is_same:
        _own.past_outages = [*_own.past_outages, replace(before, until=now)][-_MAX_OUTAGES:]
    state = {name: getattr(result, name) for name in Result.__slots__}  # `asdict` would take ten times as long
    state["since"] = before.since if before and is_same else now
    state["detail"] = result.detail[:_MAX_DETAIL]
    # During an outage, the last known ones.
    state["version"] = result.version or (before.version if before else None)
    state["transport"] = result.transport or (before.transport if before else None)
    _own.dependencies[result.name] = DependencyState(**state)
    if result.cause:
        return  # nothing was measured
    buckets = _own.latencies.setdefault(result.name, [])
    number, slowest, has_failed = int(now // BUCKET_SECONDS), result.latency_ms, not result.healthy
    if buckets and buckets[-1][0] == number:
        _, earlier_slowest, earlier_failed = buckets.pop()
        slowest, has_failed = max(slowest, earlier_slowest), has_failed or earlier_failed
    buckets.append((number, slowest, has_failed))
    del buckets[:-MAX_BUCKETS]


def publish() -> None:
    """Write this worker's state. Only the background thread calls it, so that a slow disk never delays a probe."""
    with _lock:
        state = asdict(_own)
    runtime_folder.write(f"state_{_own.pid}.json", json.dumps(state))


def read_all() -> list[WorkerState]:
    """Return the states of all workers, oldest first. This worker's comes from memory."""
    with _lock:
        workers = [deepcopy(_own)]
    with suppress(OSError):  # without a free file descriptor, the page shows only this worker
        for path in runtime_folder.path.glob("*_*.json") if runtime_folder.path else ():
            with suppress(OSError, ValueError, TypeError, KeyError):  # renamed in the meantime, or damaged
                worker = _read(path)
                if worker.is_dead or worker.pid != os.getpid():
                    workers.append(worker)
    return sorted(workers, key=lambda worker: worker.started_at)


def _read(path: Path) -> WorkerState:
    data = json.loads(path.read_text())
    data["heartbeat_at"], data["is_dead"] = path.stat().st_mtime, path.name.startswith("dead_")
    data["dependencies"] = {name: DependencyState(**state) for name, state in data["dependencies"].items()}
    data["past_outages"] = [DependencyState(**outage) for outage in data["past_outages"]]
    return WorkerState(**data)


def mark_dead(pid: int) -> None:
    """Rename the file of a dead worker, whose outages stay on the page, and remove the oldest of those files."""
    folder = runtime_folder.path
    assert folder  # only gunicorn's master calls this
    with suppress(FileNotFoundError):  # the worker died before it wrote one
        os.replace(folder / f"state_{pid}.json", folder / f"dead_{pid}.json")
    (folder / f"state_{pid}.json.tmp").unlink(missing_ok=True)
    for path in sorted(folder.glob("dead_*.json"), key=lambda path: path.stat().st_mtime)[:-_MAX_DEAD_WORKERS]:
        path.unlink()


def set_worker_count(count: int) -> None:
    runtime_folder.write("worker_count", str(count))


def worker_count() -> int:
    with suppress(OSError):
        return int((runtime_folder.path / "worker_count").read_text()) if runtime_folder.path else 1
    return 1


def mark_page_viewed() -> None:
    """Make the background threads of all workers run checks for _MAX_AGE, so that the page shows recent results."""
    if runtime_folder.path:
        with suppress(OSError):  # if the disk is full, the page shows older results of the other workers
            (runtime_folder.path / "page_viewed").touch()


def is_page_open() -> bool:
    if runtime_folder.path:
        with suppress(FileNotFoundError):
            return time.time() - (runtime_folder.path / "page_viewed").stat().st_mtime < _MAX_AGE
    return False
