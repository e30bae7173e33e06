"""What was measured lately, by every worker of the server.

Each worker keeps an account and shows it to the others (health/multiprocess/worker_slots.py):

    Account     the latest report, the last failures, and how long checks took in the last minutes
    Told        what is known of one dependency
    Failure     from when until when a dependency failed for one reason

It is kept in memory, bounded, and ends with the server: Prometheus is what remembers.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from health.check_runner import Report, Result
from health.multiprocess import worker_slots as workers

BUCKET = 5  # seconds that one bar of the graph stands for
BUCKETS = 60
_FAILURES = 8
_MOST_DETAIL = 200  # characters
_PAUSE = 1.0  # seconds in which a report that says nothing new is not told


@dataclass(slots=True)
class Told:
    critical: bool
    latency_ms: float
    reason: str | None
    detail: str
    version: str | None
    since: float  # time.time()


@dataclass(slots=True)
class Failure:
    name: str
    reason: str
    detail: str
    began: float  # time.time()
    ended: float | None = None


@dataclass(slots=True)
class Account:
    checked: float = 0.0  # time.monotonic() of the latest report
    told: dict[str, Told] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    buckets: dict[str, dict[str, tuple[float, bool]]] = field(default_factory=dict)  # by number: slowest, any failed


_account: Account | None = None
_lock = threading.Lock()
_shown = 0.0


def renew() -> None:
    """After a fork: what the parent knew is not this process's."""
    global _account, _lock
    _account, _lock = None, threading.Lock()


def record(report: Report) -> None:
    """Adds the report to this process's account, and shows that: at once when anything changed, else once a second."""
    global _account, _shown
    with _lock:
        if _account is None:
            _account = read_account(workers.own())
        changed = [_add(_account, result, report) for result in report.results]
        _account.checked = report.finished_at
        if any(changed) or time.monotonic() - _shown >= _PAUSE:
            _shown = time.monotonic()
            workers.write(json.dumps(asdict(_account), ensure_ascii=False, separators=(",", ":")))


def account_of(report: Report) -> Account:
    """Returns what this one report tells."""
    account = Account(report.finished_at)
    for result in report.results:
        _add(account, result, report)
    return account


def _add(account: Account, result: Result, report: Report) -> bool:
    """Returns whether its state is another than before."""
    now, before = report.checked_at.timestamp(), account.told.get(result.name)
    changed = before is None or before.reason != result.reason
    since = now if before is None or changed else before.since
    detail = result.detail[:_MOST_DETAIL]
    version = result.version or (before.version if before else None)  # of one that is down: the last known
    account.told[result.name] = Told(result.critical, result.latency_ms, result.reason, detail, version, since)
    if changed:
        for failure in account.failures:
            if failure.name == result.name and failure.ended is None:
                failure.ended = now
        if result.reason:
            account.failures.append(Failure(result.name, result.reason, detail, now))
            del account.failures[:-_FAILURES]
    _add_to_bucket(account.buckets.setdefault(result.name, {}), result, int(report.finished_at // BUCKET))
    return changed


def _add_to_bucket(buckets: dict[str, tuple[float, bool]], result: Result, number: int) -> None:
    slowest, failed = buckets.get(str(number), (0.0, False))
    buckets[str(number)] = (max(slowest, result.latency_ms), failed or not result.healthy)
    for old in [key for key in buckets if int(key) <= number - BUCKETS]:
        del buckets[old]


def read_account(text: str) -> Account:
    if not text:
        return Account()
    data = json.loads(text)
    return Account(
        data["checked"],
        {name: Told(**told) for name, told in data["told"].items()},
        [Failure(**failure) for failure in data["failures"]],
        {name: {key: tuple(value) for key, value in buckets.items()} for name, buckets in data["buckets"].items()},
    )


def current_bucket() -> int:
    return int(time.monotonic() // BUCKET)


def moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


def wall_clock(monotonic: float) -> float:
    """Returns what `time.time()` was when `time.monotonic()` was that."""
    return time.time() - (time.monotonic() - monotonic)
