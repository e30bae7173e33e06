"""Ages, bounds and contents of the states that workers share, with a clock that only the test moves."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django import Settings

from health.check_runner import Report, Result
from health.multiprocess import runtime_folder, worker_states
from health.multiprocess.worker_states import DependencyState, WorkerState
from tests.health.multiprocess.test_worker_states import folder, own_state

__all__ = ["folder"]

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW


@pytest.fixture(autouse=True)
def clock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker_states, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def record(*results: Result, at: float = NOW, finished_at: float = 1.0) -> None:
    worker_states.record(Report(results, datetime.fromtimestamp(at, UTC), finished_at))


def result(reason: str | None = None, *, latency: float = 1.0, **values: Any) -> Result:
    return Result("redis", True, latency, reason, **{"detail": "there"} | values)


# Alive and current


def test_ages_at_which_a_worker_is_no_longer_alive_or_current(clock: Clock, settings: Settings) -> None:
    settings.HEALTH_TIMEOUT, settings.HEALTH_MAX_AGE = 2.0, 1.0
    other = WorkerState(pid=1, heartbeat_at=NOW, checked_at=NOW)
    for age, is_alive in ((7.5, True), (8.0, False)):  # 6 and HEALTH_TIMEOUT
        clock.now = NOW + age
        assert (other.is_alive, other.is_current) == (is_alive, is_alive)
    for age, is_current in ((17.5, True), (18.0, False)):  # 15, HEALTH_TIMEOUT and HEALTH_MAX_AGE
        clock.now = other.heartbeat_at = NOW + age
        assert (other.is_alive, other.is_current) == (True, is_current)


def test_dead_worker_is_neither_alive_nor_current() -> None:
    for pid in (1, os.getpid()):
        dead = WorkerState(pid=pid, heartbeat_at=NOW, checked_at=NOW, is_dead=True)
        assert (dead.is_alive, dead.is_current) == (False, False)


def test_own_state_is_always_alive_and_current() -> None:
    own = WorkerState(pid=os.getpid())
    assert (own.is_alive, own.is_current, own.heartbeat_at, own.checked_at) == (True, True, 0.0, 0.0)


def test_new_state_is_empty() -> None:
    state = own_state()
    assert (state.pid, state.status, state.is_dead) == (os.getpid(), "", False)
    assert (state.dependencies, state.past_outages, state.latencies, state.summary) == ({}, [], {}, "")
    assert state.started_at > 0
    assert DependencyState("redis", True, 1.0).since == 0.0


def test_summary_lists_what_has_failed() -> None:
    failing = {
        name: DependencyState(name, True, 1.0, reason, cause=cause)
        for name, reason, cause in (
            ("postgres", "timeout", None),
            ("redis", None, None),
            ("migrations", "timeout", "postgres"),
            ("qdrant", "dns_failure", None),
        )
    }
    assert WorkerState(dependencies=failing).summary == "postgres: timeout, qdrant: dns_failure"
    assert WorkerState(dependencies={"redis": failing["redis"]}).summary == "all healthy"


# Recorded


def test_report_is_recorded() -> None:
    record(result(version="8.1", transport="TLS", usage="1 of 2", certificate_expires_at=7.0))
    own = own_state()
    assert (own.checked_at, own.status) == (NOW, "ready")
    assert own.dependencies == {
        "redis": DependencyState(
            "redis", True, 1.0, None, "there", None, "8.1", "TLS", "1 of 2", 7.0, since=NOW, until=None
        )
    }


def test_report_that_is_not_later_is_ignored() -> None:
    record(result(), finished_at=5.0)
    for finished_at in (4.0, 5.0):
        record(result("timeout"), finished_at=finished_at)
        assert own_state().dependencies["redis"].healthy
    record(result("timeout"), finished_at=5.1)
    assert not own_state().dependencies["redis"].healthy


def test_outage_lasts_as_long_as_reason_and_cause_stay_the_same() -> None:
    steps: list[Result] = [
        result(),
        result("timeout", latency=2.0),
        result("timeout", latency=3.0, detail="longer"),
        result("timeout", cause="postgres"),
        result("error"),
        result("error", cause="postgres"),
        result(),
    ]
    since = []
    for number, step in enumerate(steps):
        record(step, at=NOW + number, finished_at=number + 1.0)
        since.append(own_state().dependencies["redis"].since - NOW)
    assert since == [0, 1, 1, 3, 4, 5, 6]
    outages = own_state().past_outages
    assert [(item.reason, item.cause, item.since - NOW, (item.until or 0) - NOW) for item in outages] == [
        ("timeout", None, 1, 3),
        ("error", None, 4, 5),
    ]
    assert (outages[0].detail, outages[0].latency_ms) == ("longer", 3.0)


def test_last_known_version_and_transport_are_kept_during_an_outage() -> None:
    record(result("timeout"), finished_at=1.0)
    assert (own_state().dependencies["redis"].version, own_state().dependencies["redis"].transport) == (None, None)
    record(result(version="8.1", transport="TLS"), finished_at=2.0)
    record(result("timeout"), finished_at=3.0)
    record(result("timeout"), finished_at=4.0)
    assert (own_state().dependencies["redis"].version, own_state().dependencies["redis"].transport) == ("8.1", "TLS")
    record(result(version="9", transport="plaintext"), finished_at=5.0)
    assert (own_state().dependencies["redis"].version, own_state().dependencies["redis"].transport) == (
        "9",
        "plaintext",
    )


def test_detail_has_at_most_200_characters() -> None:
    for finished_at, length in ((1.0, 200), (2.0, 201)):
        record(result(detail="ü" * length), finished_at=finished_at)
        assert own_state().dependencies["redis"].detail == "ü" * 200


def test_at_most_8_outages_are_kept() -> None:
    for number in range(20):
        record(result(f"reason {number}"), at=NOW + number, finished_at=number + 1.0)
    assert [item.reason for item in own_state().past_outages] == [f"reason {number}" for number in range(11, 19)]


def test_latencies_are_the_slowest_of_five_seconds() -> None:
    finished_at = 0.0
    for seconds, latency, reason in (
        (0, 2.0, None),
        (4.9, 1.0, None),
        (5, 1.0, "timeout"),
        (6, 3.0, None),
        (10, 4.0, None),
        (11, 5.0, "timeout"),
        (15, 6.0, None),
    ):
        finished_at += 1
        record(result(reason, latency=latency), at=NOW + seconds, finished_at=finished_at)
    first = int(NOW) // 5
    assert own_state().latencies == {
        "redis": [(first, 2.0, False), (first + 1, 3.0, True), (first + 2, 5.0, True), (first + 3, 6.0, False)]
    }


def test_nothing_is_measured_while_the_cause_is_down() -> None:
    record(result("timeout", cause="postgres"))
    assert own_state().latencies == {}


def test_latencies_of_five_minutes_are_kept() -> None:
    for number in range(61):
        record(result(latency=number), at=NOW + 5 * number, finished_at=number + 1.0)
    buckets = own_state().latencies["redis"]
    assert len(buckets) == 60
    assert (buckets[0][1], buckets[-1][1]) == (1, 60)


# Files


def test_published_state_is_read_by_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(result("timeout"), at=NOW, finished_at=1.0)
    record(result(version="8.1"), at=NOW + 1, finished_at=2.0)
    expected = own_state()
    monkeypatch.setattr(worker_states._own, "pid", 1)
    worker_states.publish()
    os.utime(folder / "state_1.json", (NOW, NOW))
    worker_states.reset_after_fork()
    (other,) = [worker for worker in worker_states.read_all() if worker.pid == 1]
    assert (other.heartbeat_at, other.is_dead) == (NOW, False)
    assert (other.dependencies, other.past_outages) == (expected.dependencies, expected.past_outages)
    assert (other.checked_at, other.started_at, other.status) == (NOW + 1, expected.started_at, "ready")
    assert [tuple(bucket) for bucket in other.latencies["redis"]] == expected.latencies["redis"]


def test_own_state_is_a_copy() -> None:
    record(result())
    own_state().dependencies.clear()
    assert own_state().dependencies


def write_state(folder: Path, name: str, pid: int, started_at: float) -> None:
    state = {"pid": pid, "started_at": started_at, "dependencies": {}, "past_outages": []}
    (folder / name).write_text(json.dumps(state))


def test_workers_are_in_the_order_of_their_start(folder: Path) -> None:
    for pid, started_at in ((3, 30.0), (1, 20.0), (2, 10.0)):
        write_state(folder, f"state_{pid}.json", pid, started_at)
    assert [worker.pid for worker in worker_states.read_all()] == [2, 1, 3, os.getpid()]


def test_own_file_is_not_read_but_that_of_a_dead_worker_with_the_same_pid_is(folder: Path) -> None:
    write_state(folder, f"state_{os.getpid()}.json", os.getpid(), 1.0)
    assert [worker.is_dead for worker in worker_states.read_all()] == [False]
    write_state(folder, f"dead_{os.getpid()}.json", os.getpid(), 1.0)
    assert [worker.is_dead for worker in worker_states.read_all()] == [True, False]


def test_eight_dead_workers_are_kept_whatever_their_pids(folder: Path) -> None:
    for number in range(8):
        write_state(folder, f"dead_{90 - number}.json", 90 - number, 1.0)
        os.utime(folder / f"dead_{90 - number}.json", (NOW + number, NOW + number))
    worker_states.mark_dead(1)  # it wrote no file
    assert len(list(folder.glob("dead_*"))) == 8
    write_state(folder, "state_2.json", 2, 1.0)
    (folder / "state_2.json.tmp").write_text("incomplete")
    os.utime(folder / "state_2.json", (NOW + 100, NOW + 100))
    worker_states.mark_dead(2)
    assert {path.name for path in folder.glob("*state_*")} == set()
    assert {path.name for path in folder.glob("dead_*")} == {f"dead_{pid}.json" for pid in (*range(83, 90), 2)}


def test_worker_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker_states.set_worker_count(7)
    assert worker_states.worker_count() == 7
    assert (folder / "worker_count").read_text() == "7"
    (folder / "worker_count").unlink()
    assert worker_states.worker_count() == 1
    monkeypatch.setattr(runtime_folder, "path", None)
    assert worker_states.worker_count() == 1


def test_page_is_open_for_15_seconds_after_its_last_view(folder: Path, clock: Clock) -> None:
    assert not worker_states.is_page_open()
    worker_states.mark_page_viewed()
    os.utime(folder / "page_viewed", (NOW, NOW))
    for age, is_open in ((0, True), (14.9, True), (15.0, False)):
        clock.now = NOW + age
        assert worker_states.is_page_open() is is_open
    shutil.rmtree(folder)
    worker_states.mark_page_viewed()  # does not raise
    assert not worker_states.is_page_open()
