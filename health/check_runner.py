"""Run checks under one deadline. This module does not depend on what is checked.

    Check     a name and a function that returns a CheckOutput or raises
    Result    the outcome of one check
    Report    the results of one round
    Runner    runs at most one round at a time, whose report all callers share

    report() ─┬─ latest report is fresh ───────────────────────────▶ latest report
              ├─ a round is running ──────┬─▶ wait for all checks,
              └─ otherwise start a round ─┘   or the deadline ─────▶ new report

One thread runs the checks one after the other. After `_IN_TURN_FRACTION` of the timeout, each check that has not
started gets its own thread, so a check that hangs delays the others only by that time. With a thread for each check
from the start, a round would take three times the processor time of its checks, because the threads wait for each
other.

A check that misses the deadline is reported as a timeout, and is not started again until its thread has finished. The
threads are daemons, because a `ThreadPoolExecutor` would wait for a hung check when the process exits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

# Less than 1, so that a check that times out has finished when the next round starts.
_CHECK_TIMEOUT_FRACTION = 0.9
_IN_TURN_FRACTION = 0.01  # with a timeout of 2 s, 20 ms


@dataclass(frozen=True, slots=True)
class CheckOutput:
    """The output of a successful check, shown to staff. It must not contain credentials."""

    endpoint: str
    version: str | None = None
    transport: str | None = None  # see core.clients.transport
    usage: str | None = None  # what is used of a limit, such as "37 of 197 connections"
    certificate_expires_at: float | None = None  # time.time(), of a connection with TLS


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    run: Callable[[float], CheckOutput]  # receives its timeout in seconds
    critical: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    critical: bool
    latency_ms: float
    reason: str | None = None  # None if healthy
    detail: str = ""  # the endpoint if healthy, otherwise what went wrong
    cause: str | None = None  # the dependency that is down, if this one could not be checked without it
    version: str | None = None
    transport: str | None = None
    usage: str | None = None
    certificate_expires_at: float | None = None

    @property
    def healthy(self) -> bool:
        return self.reason is None

    @property
    def status(self) -> str:
        return "healthy" if self.healthy else "unhealthy"

    @property
    def has_failed(self) -> bool:
        """Return whether the check found a fault of its own."""
        return not self.healthy and self.cause is None


@dataclass(frozen=True, slots=True, eq=False)  # so that it can be the key of a cache
class Report:
    results: tuple[Result, ...]
    checked_at: datetime
    finished_at: float  # time.monotonic()

    @property
    def status(self) -> str:
        if all(result.healthy for result in self.results):
            return "ready"
        has_critical_failure = any(result.critical and not result.healthy for result in self.results)
        return "not_ready" if has_critical_failure else "degraded"


@dataclass(slots=True)
class _Attempt:
    """One run of one check. It outlives its round if it hangs."""

    check: Check
    started_at: float = field(default_factory=time.monotonic)  # first, when its round started
    result: Result | None = None

    def build_result(self, reason: str | None, detail: str, output: CheckOutput | None = None) -> Result:
        latency_ms = round((time.monotonic() - self.started_at) * 1000, 1)
        result = Result(self.check.name, self.check.critical, latency_ms, reason, detail)
        if output is None:
            return result
        return replace(
            result,
            version=output.version,
            transport=output.transport,
            usage=output.usage,
            certificate_expires_at=output.certificate_expires_at,
        )


class _Round:
    def __init__(self, attempts: Sequence[_Attempt], new: Sequence[_Attempt], timeout: float) -> None:
        self.attempts = attempts
        self.waiting = deque(new)  # attempts that have not started
        self.pending = len(new)  # attempts that have not finished
        started_at = time.monotonic()
        self.in_turn_until = started_at + timeout * _IN_TURN_FRACTION
        self.deadline = started_at + timeout
        self.finished = threading.Event()
        self.report: Report | None = None


class Runner:
    """Run `checks` within `timeout` seconds in total, and reuse each report for `max_age` seconds.

    `explain` maps an exception to a reason and a detail. `attribute` receives all results of a round and sets their
    causes. `observe` receives each new report once.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        timeout: float,
        max_age: float,
        explain: Callable[[Exception], tuple[str, str]],
        attribute: Callable[[tuple[Result, ...]], tuple[Result, ...]] = lambda results: results,
        observe: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self.checks = checks
        self.timeout = timeout
        self.max_age = max_age
        self._explain = explain
        self._attribute = attribute
        self._observe = observe
        self._lock = threading.Lock()
        self._running: dict[str, _Attempt] = {}  # by check; started in this round or an earlier one
        self._round: _Round | None = None
        self.latest: Report | None = None
        self._latest_deadline = 0.0  # of its round

    @property
    def has_fresh_report(self) -> bool:
        """Whether `report` returns without waiting, now and for the next tenth of `max_age`."""
        return self.latest is not None and time.monotonic() - self.latest.finished_at < self.max_age * 0.9

    def report(self) -> Report:
        """Return a report that is at most `max_age` seconds old, within `timeout` seconds even if checks hang."""
        with self._lock:
            if self.latest and time.monotonic() - self.latest.finished_at < self.max_age:
                return self.latest
            round_ = self._join_or_start_round()
        return self._finish_round(round_)

    def _join_or_start_round(self) -> _Round:
        if self._round and not self._round.finished.is_set():
            return self._round
        return self._start_round()  # because a finished round may predate a recovery

    def _start_round(self) -> _Round:
        new = [_Attempt(check) for check in self.checks if check.name not in self._running]
        self._running |= {attempt.check.name: attempt for attempt in new}
        attempts = [self._running[check.name] for check in self.checks]
        round_ = self._round = _Round(attempts, new, self.timeout)
        if new:
            self._start_threads(round_, 1)
        else:
            round_.finished.set()
        return round_

    def _start_threads(self, round_: _Round, number: int) -> None:
        try:
            for _ in range(number):
                threading.Thread(target=self._run_in_turn, args=(round_,), name="check", daemon=True).start()
        except RuntimeError as error:  # the operating system's limit of threads is reached
            while attempt := _next(round_):
                self._finish_check(attempt, attempt.build_result(*self._explain(error)), round_)

    def _run_in_turn(self, round_: _Round) -> None:
        """Run checks that have not started, until none is left."""
        while attempt := _next(round_):
            threading.current_thread().name = f"check-{attempt.check.name}"
            attempt.started_at = time.monotonic()
            self._run(attempt, round_)

    def _run(self, attempt: _Attempt, round_: _Round) -> None:
        try:
            output = attempt.check.run(self.timeout * _CHECK_TIMEOUT_FRACTION)
            result = attempt.build_result(None, output.endpoint, output)
        except Exception as error:
            result = attempt.build_result(*self._explain(error))
        with self._lock:
            self._finish_check(attempt, result, round_)

    def _finish_check(self, attempt: _Attempt, result: Result, round_: _Round) -> None:
        attempt.result = result
        del self._running[attempt.check.name]
        round_.pending -= 1
        if round_.pending == 0:
            round_.finished.set()

    def _finish_round(self, round_: _Round) -> Report:
        """Wait for the checks or the deadline, and return the report of the round, built by the first caller."""
        if not round_.finished.wait(max(0.0, round_.in_turn_until - time.monotonic())):
            with self._lock:
                self._start_threads(round_, len(round_.waiting))
            round_.finished.wait(max(0.0, round_.deadline - time.monotonic()))
        with self._lock:
            if round_.report is not None:
                return round_.report
            late = f"the check did not finish within {self.timeout:g} s"
            results = tuple(attempt.result or attempt.build_result("timeout", late) for attempt in round_.attempts)
            round_.report = Report(self._attribute(results), datetime.now(UTC), time.monotonic())
            if self._round is round_:
                self._round = None
            if round_.deadline < self._latest_deadline:  # a later round was faster, and has been observed
                return round_.report
            self.latest, self._latest_deadline = round_.report, round_.deadline
        self._observe(round_.report)
        return round_.report


def _next(round_: _Round) -> _Attempt | None:
    """Take the next attempt that has not started. Several threads may do so."""
    try:
        return round_.waiting.popleft()
    except IndexError:
        return None
