"""Rounds that start before the latest report expires: when, how many, and that they change nothing else.

Tests control the timers and the clock, so that they depend on no real time.
"""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from health import check_runner
from health.check_runner import Check, CheckOutput, Report
from health.early_refresh import RefreshingRunner
from tests.support.polling import succeeds_within
from tests.support.readiness import is_waiting

MAX_AGE = 1.0


class Timers:
    """Replaces `threading.Timer`. Time passes only in `pass_time`, which runs each timer that is due in a thread."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.started: list[SimpleNamespace] = []
        self.can_start = True

    def make(self, seconds: float, function: Callable[..., None], args: tuple[Any, ...]) -> SimpleNamespace:
        def start() -> None:
            if not self.can_start:
                raise RuntimeError("can't start new thread")
            self.waiting.append((self.now + seconds, lambda: function(*args)))
            self.started.append(timer)

        timer = SimpleNamespace(start=start, name="", daemon=False)
        return timer

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.waiting if timer[0] <= self.now]
        self.waiting = [timer for timer in self.waiting if timer[0] > self.now]
        for _, run in due:
            run()


class Counted:
    """A check that counts its runs, and blocks while it is closed."""

    def __init__(self) -> None:
        self.runs = 0
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Event()

    def __call__(self, seconds: float) -> CheckOutput:
        self.runs += 1
        self.started.set()
        self.open.wait(30)
        return CheckOutput(f"run {self.runs}")


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(threading, "Timer", timers.make)
    monkeypatch.setattr(check_runner, "time", SimpleNamespace(monotonic=lambda: timers.now))
    return timers


@pytest.fixture
def check() -> Iterator[Counted]:
    check = Counted()
    yield check
    check.open.set()


def make_runner(check: Counted, max_age: float = MAX_AGE, **kwargs: Any) -> RefreshingRunner:
    explain = lambda error: ("error", str(error))  # noqa: E731
    return RefreshingRunner([Check("a", check)], timeout=20, max_age=max_age, explain=explain, **kwargs)


def start_refresh(timers: Timers, check: Counted) -> threading.Thread:
    """Let the next round start, and return its thread, which waits until the check is opened."""
    check.open.clear()
    check.started.clear()
    refresh = threading.Thread(target=timers.pass_time, args=(MAX_AGE / 2,))
    refresh.start()
    assert check.started.wait(10)
    return refresh


@pytest.mark.parametrize("interval", [0.01, 0.3, 0.5, 0.6, 1.0, 1.4])
def test_a_regular_probe_waits_only_for_its_first_round(timers: Timers, check: Counted, interval: float) -> None:
    runner = make_runner(check)
    runner.report()
    for _ in range(50):
        timers.pass_time(interval)
        before = check.runs
        assert timers.now - runner.report().finished_at < MAX_AGE
        assert check.runs == before, "the probe has started a round"


def test_at_most_one_round_follows_the_last_use(timers: Timers, check: Counted) -> None:
    runner = make_runner(check)
    for _ in range(3):
        runner.report()
    for _ in range(20):
        timers.pass_time(MAX_AGE / 2)
    assert check.runs == 2
    assert not timers.waiting


def test_no_timer_starts_before_the_first_report_or_without_reuse(timers: Timers, check: Counted) -> None:
    make_runner(check)
    runner = make_runner(check, max_age=0)
    assert runner.report() is not runner.report()
    assert not timers.started


def test_timers_do_not_keep_the_process_alive(timers: Timers, check: Counted) -> None:
    make_runner(check).report()
    assert [timer.daemon for timer in timers.started] == [True]


def test_observer_receives_each_report_once(timers: Timers, check: Counted) -> None:
    observed: list[Report] = []
    runner = make_runner(check, observe=observed.append)
    first = runner.report()
    timers.pass_time(MAX_AGE / 2)  # nobody waits for this round
    second = runner.report()
    assert observed == [first, second]


def test_requests_get_the_current_report_during_the_round(timers: Timers, check: Counted) -> None:
    runner = make_runner(check)
    first = runner.report()
    refresh = start_refresh(timers, check)
    assert runner.report() is first
    check.open.set()
    refresh.join(10)
    assert runner.report() is not first


def test_expired_report_is_never_returned_and_its_request_joins_the_round(timers: Timers, check: Counted) -> None:
    runner = make_runner(check)
    first = runner.report()
    refresh = start_refresh(timers, check)
    timers.now += MAX_AGE
    reports: list[Report] = []
    probe = threading.Thread(target=lambda: reports.append(runner.report()))
    probe.start()
    assert succeeds_within(10, lambda: is_waiting(probe), interval=0.01)
    check.open.set()
    probe.join(10)
    refresh.join(10)
    (report,) = reports
    assert report is not first
    assert check.runs == 2


def test_no_round_follows_when_a_request_was_faster(timers: Timers, check: Counted) -> None:
    runner = make_runner(check)
    runner.report()
    timer = timers.waiting.pop()
    timers.now += MAX_AGE  # the thread of the timer is late
    runner.report()
    timer[1]()
    assert check.runs == 2


def test_a_timer_that_cannot_start_leaves_the_round_to_the_next_request(timers: Timers, check: Counted) -> None:
    runner = make_runner(check)
    timers.can_start = False
    runner.report()
    timers.now += MAX_AGE
    timers.can_start = True
    runner.report()
    assert check.runs == 2
    timers.pass_time(MAX_AGE / 2)
    assert check.runs == 3


def test_late_report_of_an_older_round_replaces_no_newer_one(timers: Timers, check: Counted) -> None:
    observed: list[Report] = []
    runner = make_runner(check, observe=observed.append)
    older = runner._start_round()
    assert older.finished.wait(10)
    timers.now += 0.1
    newer = runner.report()
    assert runner._finish_round(older) is not newer
    assert runner.latest is newer and observed == [newer]
