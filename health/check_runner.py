"""Runs checks under one deadline. It knows nothing of what it checks.

    Check     a name and a function that returns a Finding or raises
    Result    what became of one check
    Report    the results of one round, and the state that follows from them
    Runner    at most one round at a time, however many ask; its result is shared and reused

A round gives every check a daemon thread (a `ThreadPoolExecutor` would wait for a hung one when the process ends). Who
asks meanwhile waits for the same round. At the deadline the round is over: a check that hasn't come back is reported as
a timeout, keeps its thread, and isn't started again before it has come back. Between rounds no thread is left.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

# Of the deadline, that a check is given. It ends just before its round does, so that the next round finds it back.
_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """What a check learnt. `where` and `version` are for staff: no credentials in them."""

    where: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    run: Callable[[float], CheckOutput]  # is given the seconds that it has; should give up by itself then
    critical: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    critical: bool
    latency_ms: float
    reason: str | None = None  # None: healthy
    detail: str = ""
    version: str | None = None

    @property
    def healthy(self) -> bool:
        return self.reason is None

    @property
    def status(self) -> str:
        return "healthy" if self.healthy else "unhealthy"


@dataclass(frozen=True, slots=True)
class Report:
    results: tuple[Result, ...]
    checked_at: datetime
    ended: float  # time.monotonic()

    @property
    def status(self) -> str:
        if all(result.healthy for result in self.results):
            return "ready"
        failed_critical = any(result.critical and not result.healthy for result in self.results)
        return "not_ready" if failed_critical else "degraded"


@dataclass(slots=True)
class _Attempt:
    """One run of one check. It may outlive its round by hanging."""

    check: Check
    began: float = field(default_factory=time.monotonic)
    result: Result | None = None

    def ended(self, reason: str | None, detail: str, version: str | None = None) -> Result:
        latency = round((time.monotonic() - self.began) * 1000, 1)
        return Result(self.check.name, self.check.critical, latency, reason, detail, version)


class _Round:
    def __init__(self, attempts: Sequence[_Attempt], waiting_for: int, deadline: float) -> None:
        self.attempts = attempts
        self.waiting_for = waiting_for
        self.deadline = deadline
        self.over = threading.Event()
        self.report: Report | None = None


class Runner:
    """Runs `checks` within `timeout` seconds all together; a report is reused for `max_age` seconds.

    `explain` turns the exception of a failed check into a reason and a detail. `observe` is told every new report and
    the one before it.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        timeout: float,
        max_age: float,
        explain: Callable[[Exception], tuple[str, str]],
        observe: Callable[[Report | None, Report], None] = lambda before, now: None,
    ) -> None:
        self.checks = checks
        self.timeout = timeout
        self.max_age = max_age
        self._explain = explain
        self._observe = observe
        self._lock = threading.Lock()
        self._under_way: dict[str, _Attempt] = {}  # not back yet, of this round or one before
        self._round: _Round | None = None
        self.latest: Report | None = None

    def report(self) -> Report:
        """Returns a report no older than `max_age`, within `timeout` seconds whatever the checks do."""
        with self._lock:
            if self.latest and time.monotonic() - self.latest.ended < self.max_age:
                return self.latest
            this = self._round
            if this is None or this.over.is_set():  # whoever comes now gets a check that ends from now on
                this = self._begin()
        this.over.wait(max(0.0, this.deadline - time.monotonic()))
        return self._end(this)

    def _begin(self) -> _Round:
        attempts, new = [], []
        for check in self.checks:
            attempt = self._under_way.get(check.name)
            if attempt is None:
                attempt = self._under_way[check.name] = _Attempt(check)
                new.append(attempt)
            attempts.append(attempt)
        this = self._round = _Round(attempts, len(new), time.monotonic() + self.timeout)
        for attempt in new:
            name = f"check-{attempt.check.name}"
            thread = threading.Thread(target=self._run, args=(attempt, this), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread to be had
                self._back(attempt, attempt.ended(*self._explain(error)), this)
        if not new:
            this.over.set()
        return this

    def _run(self, attempt: _Attempt, this: _Round) -> None:
        try:
            finding = attempt.check.run(self.timeout * _SHARE)
            result = attempt.ended(None, finding.where, finding.version)
        except Exception as error:
            result = attempt.ended(*self._explain(error))
        with self._lock:
            self._back(attempt, result, this)

    def _back(self, attempt: _Attempt, result: Result, this: _Round) -> None:
        attempt.result = result
        del self._under_way[attempt.check.name]
        this.waiting_for -= 1
        if this.waiting_for == 0:
            this.over.set()

    def _end(self, this: _Round) -> Report:
        """The first of the callers to come here makes the report; the others take it."""
        with self._lock:
            if this.report is not None:
                return this.report
            results = tuple(
                attempt.result or attempt.ended("timeout", "has not answered in time") for attempt in this.attempts
            )
            before, self.latest = self.latest, Report(results, datetime.now(UTC), time.monotonic())
            this.report = self.latest
            if self._round is this:
                self._round = None
        self._observe(before, this.report)
        return this.report
