"""The runner with artificial checks: deadline, sharing, reuse and recovery, even if checks hang or fail."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from health import check_runner
from health.check_runner import Check, CheckOutput, Report, Runner
from tests.support.polling import SLOWNESS, ends_within, succeeds_within
from tests.support.readiness import is_waiting

SHORT_TIMEOUT = 1.0 * SLOWNESS  # seconds, of rounds in which a check hangs; the other checks have to end before it


class Gate:
    """A check that blocks until it is opened, and counts its calls."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls = 0

    def __call__(self, seconds: float) -> CheckOutput:
        self.calls += 1
        self.open.wait(30)
        return CheckOutput("gate")


def succeed(seconds: float) -> CheckOutput:
    return CheckOutput("endpoint", "1.0")


def fail(seconds: float) -> CheckOutput:
    raise OSError("refused")


def make_runner(*checks: Check, timeout: float = 20, max_age: float = 0.0, **kwargs: object) -> Runner:
    return Runner(checks, timeout=timeout, max_age=max_age, explain=lambda e: ("error", str(e)), **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def gate() -> object:
    gate = Gate()
    yield gate
    gate.open.set()


def check_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("check-")]


def wait_for(condition: Callable[[], bool], timeout: float = 5) -> bool:
    return succeeds_within(timeout, condition, interval=0.01)


def reasons(report: Report) -> dict[str, str | None]:
    return {result.name: result.reason for result in report.results}


def test_output_is_healthy_and_exception_is_unhealthy() -> None:
    report = make_runner(Check("a", succeed), Check("b", fail)).report()
    assert reasons(report) == {"a": None, "b": "error"}
    assert [result.detail for result in report.results] == ["endpoint", "refused"]
    assert report.status == "not_ready"


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([Check("a", succeed), Check("b", succeed)], "ready"),
        ([Check("a", succeed), Check("b", fail, critical=False)], "degraded"),
        ([Check("a", fail), Check("b", fail, critical=False)], "not_ready"),
    ],
)
def test_report_status(checks: list[Check], status: str) -> None:
    assert make_runner(*checks).report().status == status


def test_checks_run_concurrently() -> None:
    barrier = threading.Barrier(3)

    def wait_for_others(seconds: float) -> CheckOutput:
        barrier.wait(10)  # returns only after all three checks have called it
        return CheckOutput("endpoint")

    report = make_runner(*(Check(name, wait_for_others) for name in "abc")).report()
    assert report.status == "ready"


def test_checks_that_do_not_wait_share_a_thread() -> None:
    threads: list[int] = []

    def record_thread(seconds: float) -> CheckOutput:
        threads.append(threading.get_ident())
        return CheckOutput("endpoint")

    runner = make_runner(*(Check(name, record_thread) for name in "abcde"), timeout=1000)
    assert runner.report().status == "ready"
    assert len(threads) == 5
    assert len(set(threads)) == 1


def test_checks_after_a_hung_one_start_with_it(gate: Gate) -> None:
    """They get threads of their own after a hundredth of the timeout."""
    started: list[tuple[str, float]] = []

    def record_start(name: str) -> Callable[[float], CheckOutput]:
        def run(seconds: float) -> CheckOutput:
            started.append((threading.current_thread().name, seconds))
            return gate(seconds)

        return run

    runner = make_runner(*(Check(name, record_start(name)) for name in "abc"), timeout=10)
    started_at = time.monotonic()
    caller = threading.Thread(target=runner.report)
    caller.start()
    assert wait_for(lambda: len(started) == 3)
    assert time.monotonic() - started_at >= 0.1
    assert sorted(started) == [("check-a", 9.0), ("check-b", 9.0), ("check-c", 9.0)]
    gate.open.set()
    caller.join(10)


def test_hung_check_times_out_and_holds_one_thread(gate: Gate) -> None:
    runner = make_runner(Check("hung", gate), Check("healthy", succeed), timeout=SHORT_TIMEOUT)
    for _ in range(3):  # the first one waits for the hung check, the others don't
        with ends_within(SHORT_TIMEOUT):
            report = runner.report()
        assert reasons(report) == {"hung": "timeout", "healthy": None}
    assert gate.calls == 1
    assert check_threads() == ["check-hung"]


def test_latency_of_hung_check_is_the_time_since_its_start(gate: Gate) -> None:
    runner = make_runner(Check("hung", gate), timeout=0.1)
    first = runner.report().results[0].latency_ms
    time.sleep(0.2)
    assert 0 < first < runner.report().results[0].latency_ms - 190


def test_first_check_after_recovery_is_healthy(gate: Gate) -> None:
    runner = make_runner(Check("hung", gate), timeout=SHORT_TIMEOUT)
    assert runner.report().status == "not_ready"
    gate.open.set()
    assert wait_for(lambda: not check_threads())
    assert runner.report().status == "ready"
    assert gate.calls == 2


def test_concurrent_callers_share_one_round(gate: Gate) -> None:
    runner = make_runner(Check("slow", gate), timeout=20)
    reports: list[Report] = []
    callers = [threading.Thread(target=lambda: reports.append(runner.report())) for _ in range(20)]
    for caller in callers:
        caller.start()
    assert wait_for(lambda: gate.calls == 1 and all(map(is_waiting, callers)), 20)
    gate.open.set()
    for caller in callers:
        caller.join(10)
    assert gate.calls == 1
    assert len(reports) == 20
    assert len({id(report) for report in reports}) == 1


def test_late_caller_of_an_earlier_round_does_not_end_the_current_one(gate: Gate) -> None:
    """Otherwise the next caller would start a third round, and report checks that still run as timeouts at once."""
    is_late, may_return = threading.Event(), threading.Event()

    class LateRunner(Runner):
        def _finish_round(self, round_: Any) -> Report:
            if threading.current_thread() is late_caller:
                is_late.set()
                may_return.wait(20)
            return super()._finish_round(round_)

    gates = [Gate(), gate]
    gates[0].open.set()
    check = Check("a", lambda seconds: gates[0](seconds))
    runner = LateRunner([check], timeout=20, max_age=0, explain=lambda error: ("error", str(error)))
    reports: list[Report] = []
    callers = [threading.Thread(target=lambda: reports.append(runner.report())) for _ in range(3)]
    late_caller, second_caller, third_caller = callers
    late_caller.start()
    assert is_late.wait(10)
    assert wait_for(lambda: not check_threads())  # the first round has ended, and its report is not built yet
    gates.pop(0)
    second_caller.start()
    assert wait_for(lambda: is_waiting(second_caller))
    may_return.set()
    late_caller.join(10)
    third_caller.start()
    assert wait_for(lambda: is_waiting(third_caller))
    gate.open.set()
    for caller in callers:
        caller.join(10)
    assert [report.status for report in reports] == ["ready"] * 3
    assert reports[1] is reports[2]
    assert gate.calls == 1


def test_report_is_reused_until_max_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 1000.0, list[float]()
    monkeypatch.setattr(check_runner, "time", SimpleNamespace(monotonic=lambda: now))

    def record_call(seconds: float) -> CheckOutput:
        calls.append(seconds)
        return CheckOutput("endpoint")

    runner = make_runner(Check("a", record_call), max_age=0.5)
    first = runner.report()
    now += 0.4375
    assert runner.report() is first
    now += 0.0625
    assert runner.report() is not first
    assert calls == [18.0, 18.0]


def test_max_age_zero_disables_reuse() -> None:
    runner = make_runner(Check("a", succeed))
    assert runner.report() is not runner.report()


def test_threads_do_not_keep_the_process_alive() -> None:
    are_daemons: list[bool] = []

    def record_thread(seconds: float) -> CheckOutput:
        are_daemons.append(threading.current_thread().daemon)
        return CheckOutput("endpoint")

    make_runner(Check("a", record_thread)).report()
    assert are_daemons == [True]


def test_leaves_no_threads() -> None:
    runner = make_runner(Check("a", succeed), Check("b", fail))
    for _ in range(50):
        runner.report()
    assert wait_for(lambda: not check_threads())


def test_each_report_is_observed_once() -> None:
    observed: list[Report] = []
    runner = make_runner(Check("a", succeed), max_age=60, observe=observed.append)
    first = runner.report()
    runner.report()
    assert observed == [first]


def test_failed_thread_start_is_reported_as_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    runner = make_runner(Check("a", succeed), Check("b", succeed))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert reasons(runner.report()) == {"a": "error", "b": "error"}
    assert runner.report().status == "ready"


def test_checks_without_a_thread_of_their_own_are_reported_as_errors(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    runner = make_runner(Check("hung", gate), Check("b", succeed), Check("c", succeed), timeout=SHORT_TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_one)
        assert reasons(runner.report()) == {"hung": "timeout", "b": "error", "c": "error"}
    assert reasons(runner.report()) == {"hung": "timeout", "b": None, "c": None}
