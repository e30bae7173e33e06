"""The values of results and reports, and what a round waits for, with a clock that only the test moves."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from health import check_runner
from health.check_runner import Check, CheckOutput, Report, Result, Runner, _Attempt, _Round


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(check_runner, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def make_runner(*checks: Check, **options: Any) -> Runner:
    defaults: dict[str, Any] = {"timeout": 2.0, "max_age": 1.0, "explain": lambda error: ("error", str(error))}
    return Runner(checks, **defaults | options)


def succeed(seconds: float) -> CheckOutput:
    return CheckOutput("endpoint", "1.0", "plaintext", "1 of 2", 17.0)


@pytest.mark.parametrize(
    ("reason", "cause", "status", "has_failed"),
    [(None, None, "healthy", False), ("timeout", None, "unhealthy", True), ("timeout", "postgres", "unhealthy", False)],
)
def test_result(reason: str | None, cause: str | None, status: str, has_failed: bool) -> None:
    result = Result("a", True, 1.0, reason, cause=cause)
    assert (result.status, result.healthy, result.has_failed) == (status, reason is None, has_failed)
    assert (result.detail, result.version, result.transport, result.usage, result.certificate_expires_at) == (
        "", None, None, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ("", "ready"),
        ("C", "ready"),
        ("Co", "degraded"),
        ("cO", "not_ready"),
        ("co", "not_ready"),
        ("Oo", "degraded"),
        ("CcO", "not_ready"),
        ("CCO", "ready"),
    ],
)
def test_status_of_a_report(results: str, status: str) -> None:
    """C is critical and O optional, in lower case if it fails."""
    made = tuple(Result("a", letter in "Cc", 1.0, "error" if letter.islower() else None) for letter in results)
    assert Report(made, SimpleNamespace(), 0.0).status == status  # type: ignore[arg-type]


def test_check_is_critical_unless_it_says_otherwise() -> None:
    assert Check("a", succeed).critical
    (result,) = make_runner(Check("a", succeed, critical=False)).report().results
    assert not result.critical


def test_result_has_the_output_of_its_check_and_its_duration(clock: Clock) -> None:
    def take_time(seconds: float) -> CheckOutput:
        clock.now += 0.12345
        return succeed(seconds)

    started = _Attempt(Check("a", take_time), started_at=clock.now)
    output = take_time(1.0)
    result = started.build_result(None, output.endpoint, output)
    assert result == Result("a", True, 123.5, None, "endpoint", None, "1.0", "plaintext", "1 of 2", 17.0)
    clock.now += 4.0
    assert started.build_result("timeout", "late") == Result("a", True, 4123.5, "timeout", "late")


def test_report_is_reused_for_less_than_its_maximum_age(clock: Clock) -> None:
    runner = make_runner(Check("a", succeed))
    first = runner.report()
    assert first.finished_at == 1000.0
    clock.now += 0.999
    assert runner.report() is first is runner.latest
    clock.now += 0.001
    assert runner.report() is not first


def test_report_that_expires_soon_is_not_fresh(clock: Clock) -> None:
    """The main thread of a worker reads a fresh one, and must not find it expired a moment later."""
    runner = make_runner(Check("a", succeed))
    assert not runner.has_fresh_report
    runner.report()
    clock.now += 0.899
    assert runner.has_fresh_report
    clock.now += 0.002
    assert not runner.has_fresh_report


class Finished(threading.Event):
    """The event of a round that never ends. It records how long callers wait for it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.timeouts = clock, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.timeouts.append(timeout)
        self.clock.now += timeout
        return False


def started_round(clock: Clock) -> _Round:
    """Return a round whose only check runs, until 2 s from now."""
    attempt = _Attempt(Check("a", succeed), started_at=clock.now)
    round_ = _Round([attempt], [attempt], 2.0)
    round_.waiting.clear()
    return round_


def test_callers_wait_until_the_deadline_of_the_round(clock: Clock) -> None:
    observed: list[Report] = []
    runner = make_runner(observe=observed.append)
    round_ = started_round(clock)
    round_.finished = finished = Finished(clock)
    runner._round = round_
    clock.now += 0.5
    report = runner.report()
    assert finished.timeouts == [0.0, 1.5]  # first until each check has a thread
    assert report.results == (Result("a", True, 2000.0, "timeout", "the check did not finish within 2 s"),)
    assert runner._round is None
    assert observed == [report]
    clock.now += 1.0
    assert runner._finish_round(round_) is report  # a caller that is later still does not wait
    assert finished.timeouts == [0.0, 1.5, 0.0, 0.0]
    assert observed == [report]


def test_late_report_of_an_earlier_round_replaces_no_later_one(clock: Clock) -> None:
    observed: list[Report] = []
    runner = make_runner(Check("a", succeed), observe=observed.append)
    early = started_round(clock)
    clock.now += 1.0
    report = runner.report()
    clock.now += 1.0
    late = runner._finish_round(early)
    assert late.results[0].reason == "timeout"
    assert runner.latest is report
    assert observed == [report]


def test_causes_are_set_before_the_report_is_observed(clock: Clock) -> None:
    caused = (Result("a", True, 1.0, "timeout", cause="b"),)
    observed: list[Report] = []
    runner = make_runner(Check("a", succeed), attribute=lambda results: caused, observe=observed.append)
    assert runner.report().results == observed[0].results == caused


def test_round_without_new_checks_ends_at_once(clock: Clock) -> None:
    """All checks hang since an earlier round, and a probe must not wait for them again."""
    runner = make_runner(Check("a", succeed))
    runner._running["a"] = _Attempt(runner.checks[0], started_at=clock.now - 5)
    round_ = runner._join_or_start_round()
    assert round_.finished.is_set()
    assert runner._finish_round(round_).results[0].latency_ms == 5000.0


def test_check_that_hung_counts_in_the_round_in_which_it_finishes(clock: Clock) -> None:
    runner = make_runner(Check("a", succeed), Check("b", succeed))
    hung = runner._running["a"] = _Attempt(runner.checks[0], started_at=clock.now)
    earlier = _Round([hung], [hung], 2.0)
    hung.result = None
    runner._finish_check(hung, hung.build_result(None, "endpoint"), earlier)
    assert earlier.finished.is_set()
    assert "a" not in runner._running
    assert runner.report().status == "ready"


def test_error_of_a_check_is_explained() -> None:
    def fail(seconds: float) -> CheckOutput:
        raise OSError(f"within {seconds:g}")

    (result,) = make_runner(Check("a", fail)).report().results
    assert (result.reason, result.detail) == ("error", "within 1.8")
