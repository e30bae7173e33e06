"""The runner alone, with checks of the test's own: what it promises whatever a check does."""

import threading
import time
from collections.abc import Callable

import pytest

from health.check_runner import Check, CheckOutput, Report, Runner


class Gate:
    """A check that stands until it is let through, and counts how often it was started."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls = 0

    def __call__(self, seconds: float) -> CheckOutput:
        self.calls += 1
        self.open.wait(30)
        return CheckOutput("gate")


def fine(seconds: float) -> CheckOutput:
    return CheckOutput("there", "1.0")


def broken(seconds: float) -> CheckOutput:
    raise OSError("no")


def make(*checks: Check, timeout: float = 0.3, max_age: float = 0.0, **more: object) -> Runner:
    return Runner(checks, timeout=timeout, max_age=max_age, explain=lambda e: ("error", str(e)), **more)  # type: ignore[arg-type]


@pytest.fixture
def gate() -> object:
    gate = Gate()
    yield gate
    gate.open.set()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("check-")]


def soon(true: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def reasons(report: Report) -> dict[str, str | None]:
    return {result.name: result.reason for result in report.results}


def test_a_finding_is_healthy_and_an_exception_is_not() -> None:
    report = make(Check("a", fine), Check("b", broken)).report()
    assert reasons(report) == {"a": None, "b": "error"}
    assert [result.detail for result in report.results] == ["there", "no"]
    assert report.status == "not_ready"


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([Check("a", fine), Check("b", fine)], "ready"),
        ([Check("a", fine), Check("b", broken, critical=False)], "degraded"),
        ([Check("a", broken), Check("b", broken, critical=False)], "not_ready"),
    ],
)
def test_status(checks: list[Check], status: str) -> None:
    assert make(*checks).report().status == status


def test_checks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def meets(seconds: float) -> CheckOutput:
        meeting.wait(5)  # passes only when all three are here
        return CheckOutput("met")

    report = make(*(Check(name, meets) for name in "abc"), timeout=5).report()
    assert report.status == "ready"


def test_a_hung_check_is_a_timeout_at_the_deadline_and_holds_one_thread(gate: Gate) -> None:
    runner = make(Check("hung", gate), Check("fine", fine))
    for _ in range(3):
        began = time.monotonic()
        report = runner.report()
        assert time.monotonic() - began < 0.3 + 0.25
        assert reasons(report) == {"hung": "timeout", "fine": None}
    assert gate.calls == 1
    assert threads() == ["check-hung"]


def test_a_hung_check_tells_how_long_it_hangs(gate: Gate) -> None:
    runner = make(Check("hung", gate), timeout=0.1)
    first = runner.report().results[0].latency_ms
    time.sleep(0.2)
    assert 100 <= first < runner.report().results[0].latency_ms - 150


def test_recovery_is_seen_by_the_first_check_after_it(gate: Gate) -> None:
    runner = make(Check("hung", gate))
    assert runner.report().status == "not_ready"
    gate.open.set()
    assert soon(lambda: not threads())
    assert runner.report().status == "ready"
    assert gate.calls == 2


def test_whoever_asks_meanwhile_waits_for_the_same_round(gate: Gate) -> None:
    runner = make(Check("slow", gate), timeout=20)
    reports: list[Report] = []
    callers = [threading.Thread(target=lambda: reports.append(runner.report())) for _ in range(20)]
    for caller in callers:
        caller.start()
    assert soon(lambda: gate.calls == 1)
    gate.open.set()
    for caller in callers:
        caller.join(10)
    assert gate.calls == 1
    assert len(reports) == 20
    assert len({id(report) for report in reports}) == 1


def test_a_report_is_reused_until_it_is_too_old() -> None:
    calls: list[float] = []

    def counts(seconds: float) -> CheckOutput:
        calls.append(seconds)
        return CheckOutput("counted")

    runner = make(Check("a", counts), max_age=0.5, timeout=5)
    first = runner.report()
    assert runner.report() is first
    time.sleep(0.55)
    assert runner.report() is not first
    assert calls == [4.5, 4.5]


def test_without_reuse_every_report_is_new() -> None:
    runner = make(Check("a", fine))
    assert runner.report() is not runner.report()


def test_no_thread_is_left_at_rest() -> None:
    runner = make(Check("a", fine), Check("b", broken))
    for _ in range(50):
        runner.report()
    assert soon(lambda: not threads())


def test_each_report_is_observed_once_with_the_one_before() -> None:
    seen: list[tuple[Report | None, Report]] = []
    runner = make(Check("a", fine), max_age=60, observe=lambda before, now: seen.append((before, now)))
    first = runner.report()
    runner.report()
    assert seen == [(None, first)]


def test_no_thread_to_be_had_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    runner = make(Check("a", fine))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert reasons(runner.report()) == {"a": "error"}
    assert runner.report().status == "ready"
