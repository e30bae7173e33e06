"""The states that workers share: complete files after a kill, bounded size, no effect on probes when a write fails."""

import json
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.test import Client

from health import metrics, readiness
from health.check_runner import Report, Result
from health.multiprocess import runtime_folder, worker_states
from health.multiprocess.worker_states import WorkerState
from health.status_page import context
from tests.support.forks import Fork
from tests.support.polling import succeeds_within


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(runtime_folder, "path", tmp_path)
    worker_states.set_worker_count(1)
    worker_states.reset_after_fork()
    yield tmp_path
    worker_states.reset_after_fork()


_reports = 0


def report(reason: str | None = None, *, latency: float = 1.0, detail: str = "there", age: float = 0) -> Report:
    """Return a report made `age` seconds ago. Each is later than the one before for `worker_states.record`."""
    global _reports
    _reports += 1
    results = tuple(Result(name, True, latency, reason, detail) for name in ("postgres", "redis"))
    return Report(results, datetime.fromtimestamp(time.time() - age, UTC), time.monotonic() + _reports)


def own_state() -> WorkerState:
    return next(worker for worker in worker_states.read_all() if worker.pid == os.getpid())


def add_worker(pid: int, last_report: Report, *, silent_for: float = 0) -> None:
    """Publish the report as another worker would, whose last heartbeat was `silent_for` seconds ago."""
    worker_states.reset_after_fork()
    worker_states._own.pid = pid
    worker_states.record(last_report)
    worker_states.publish()
    path = runtime_folder.path / f"state_{pid}.json"  # type: ignore[operator]
    os.utime(path, (time.time() - silent_for,) * 2)
    worker_states.reset_after_fork()


# Files


def test_probe_writes_no_file(folder: Path) -> None:
    worker_states.record(report("timeout"))
    assert not list(folder.glob("*state_*"))
    worker_states.publish()
    assert [path.name for path in folder.glob("*state_*")] == [f"state_{os.getpid()}.json"]


def test_killed_worker_leaves_complete_file(folder: Path) -> None:
    def keep_publishing() -> None:
        while True:
            worker_states.record(report("timeout", detail="x" * 200))
            worker_states.publish()

    for _ in range(10):
        with Fork(keep_publishing) as child:
            assert succeeds_within(10, (folder / f"state_{child.pid}.json").exists, interval=0.001)
            time.sleep(0.005)
        worker_states.mark_dead(child.pid)  # the end of the block has killed it
        (worker,) = [worker for worker in worker_states.read_all() if worker.pid == child.pid]
        assert (worker.is_dead, worker.is_alive, worker.is_current) == (True, False, False)
        assert worker.dependencies["redis"].reason == "timeout"
        assert not list(folder.glob("*.tmp"))


def test_files_of_dead_workers_are_bounded(folder: Path) -> None:
    worker_states.mark_dead(99)  # wrote no file
    for pid in range(100, 120):
        add_worker(pid, report(), silent_for=200 - pid)
        worker_states.mark_dead(pid)
    assert {worker.pid for worker in worker_states.read_all() if worker.is_dead} == set(range(112, 120))


def test_damaged_and_missing_files_are_skipped(folder: Path) -> None:
    add_worker(100, report())
    text = (folder / "state_100.json").read_text()
    for number, damaged in enumerate(("", text[: len(text) // 2], "[]", "{}", '{"pid": 1}', "\ud800")):
        (folder / f"state_{number}.json").write_text(damaged, errors="surrogatepass")
    (folder / "state_50.json").symlink_to(folder / "missing.json")
    assert {worker.pid for worker in worker_states.read_all()} == {100, os.getpid()}


def test_own_state_is_readable_without_file_descriptors() -> None:
    worker_states.set_worker_count(2)
    add_worker(100, report())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        pids, worker_count = [worker.pid for worker in worker_states.read_all()], worker_states.worker_count()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (pids, worker_count) == ([os.getpid()], 1)
    assert len(worker_states.read_all()) == worker_states.worker_count() == 2


def test_state_is_in_memory_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_folder, "path", None)
    worker_states.record(report("timeout"))
    worker_states.publish()
    worker_states.mark_page_viewed()
    assert not worker_states.is_page_open()
    assert worker_states.worker_count() == 1
    assert context.build(report("timeout"))["overall"]["label"] == "Not ready"


def test_page_is_open_for_a_while_after_its_last_view(folder: Path) -> None:
    assert not worker_states.is_page_open()
    worker_states.mark_page_viewed()
    assert worker_states.is_page_open()
    os.utime(folder / "page_viewed", (time.time() - 60,) * 2)
    assert not worker_states.is_page_open()


# States


def test_outages_and_latencies_are_bounded() -> None:
    for number in range(500):
        age = (500 - number) * worker_states.BUCKET_SECONDS
        worker_states.record(report("error" if number % 2 else None, detail=f"{number}" + "ü€" * 500, age=age))
    own = own_state()
    assert len(own.past_outages) == 8
    assert {len(buckets) for buckets in own.latencies.values()} == {worker_states.MAX_BUCKETS}
    worker_states.publish()
    (path,) = Path(str(runtime_folder.path)).glob("state_*.json")
    assert path.stat().st_size < 32 * 1024


def test_records_start_of_states_and_end_of_outages() -> None:
    worker_states.record(report(age=50))
    worker_states.record(report("timeout", age=40))
    worker_states.record(report("timeout", age=30))
    assert own_state().dependencies["redis"].since == pytest.approx(time.time() - 40, abs=5)
    worker_states.record(report("connection_refused", age=20))
    worker_states.record(report(age=10))
    first, second = [outage for outage in own_state().past_outages if outage.name == "redis"]
    assert (first.reason, second.reason) == ("timeout", "connection_refused")
    assert first.since == pytest.approx(time.time() - 40, abs=5)
    assert first.until == second.since == pytest.approx(time.time() - 20, abs=5)
    assert second.until == pytest.approx(time.time() - 10, abs=5)


def test_older_report_does_not_overwrite_a_later_one() -> None:
    healthy, failing = report(), report("timeout")
    worker_states.record(failing)
    worker_states.record(healthy)
    assert own_state().dependencies["redis"].reason == "timeout"


# The page


def test_disagreeing_workers_are_counted() -> None:
    worker_states.set_worker_count(3)
    add_worker(1001, report("timeout", detail="no response"))
    add_worker(1002, report("timeout", detail="no response"), silent_for=60)
    healthy = report()
    shown = context.build(healthy)
    assert shown["overall"]["label"] == "Workers disagree"
    redis = shown["dependencies"][1]
    assert redis["label"] == "Unhealthy in 1 of 2 workers"
    assert [problem[3] for problem in redis["problems"]] == [1]
    assert {worker.pid: worker.is_alive for worker in shown["workers"]} == {1001: True, 1002: False, os.getpid(): True}
    assert "Workers alive: 2 of 3." in shown["overall"]["details"]
    (outage,) = [outage for outage in shown["outages"] if outage["name"] == "redis"]
    assert (outage["workers"], outage["until"]) == ({1001, 1002}, shown["now"])


def test_outage_of_several_workers_is_one_row() -> None:
    """This includes workers that have died. A different reason is a different outage."""
    for pid in (1001, 1002):
        add_worker(pid, report("timeout", age=3))
    worker_states.mark_dead(1001)
    add_worker(1003, report("connection_refused"))
    worker_states.record(report("timeout", age=60))
    worker_states.record(report(age=50))
    rows = [row for row in context.build(report())["outages"] if row["name"] == "redis"]
    assert [(row["reason"], len(row["workers"])) for row in rows] == [
        ("connection_refused", 1), ("timeout", 2), ("timeout", 1)
    ]  # fmt: skip


def test_dead_worker_ends_its_outage_and_is_not_listed() -> None:
    add_worker(1001, report("timeout", age=100))
    worker_states.mark_dead(1001)
    shown = context.build(report())
    (outage,) = [outage for outage in shown["outages"] if outage["name"] == "redis"]
    assert outage["until"] == pytest.approx(time.time() - 100, abs=5)
    assert [worker.pid for worker in shown["workers"]] == [os.getpid()]
    assert shown["dependencies"][1]["label"] == "Healthy"


def test_dead_worker_with_the_pid_of_this_worker_is_dead(folder: Path) -> None:
    add_worker(os.getpid(), report("timeout", age=100))
    worker_states.mark_dead(os.getpid())
    worker_states.set_worker_count(2)
    shown = context.build(report())
    assert shown["overall"]["label"] == "Ready"
    assert shown["alive"] == 1


def test_start_of_the_current_state_includes_replaced_workers() -> None:
    add_worker(1001, report(age=100))
    worker_states.mark_dead(1001)
    shown = context.build(report())
    assert shown["dependencies"][1]["since"] == pytest.approx(time.time() - 100, abs=5)


def test_outdated_results_do_not_count() -> None:
    add_worker(1001, report("timeout", age=600))
    shown = context.build(report())
    assert shown["overall"]["label"] == "Ready"
    assert shown["dependencies"][1]["since"] == pytest.approx(time.time(), abs=5)


def test_reused_report_counts_at_any_age() -> None:
    assert context.build(report("timeout", age=3600))["overall"]["label"] == "Not ready"


def test_graph_has_a_bar_for_each_five_seconds() -> None:
    worker_states.record(report(latency=3.0))
    worker_states.record(report("timeout", latency=2000.0))
    add_worker(1001, report(latency=5.0, age=20))
    graph = context.build(report("timeout"))["dependencies"][1]["graph"]
    assert (graph["bars"].count("M"), graph["failures"].count("M")) == (1, 1)
    assert graph["label"] == "max 5.0 ms, failed for about 5 s"


# Failures


def failures_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (metrics, "measure", "measuring a report failed"),
        (worker_states, "record", "recording a report failed"),
    ],
)
def test_probe_succeeds_when_its_report_cannot_be_recorded(
    module: object, name: str, message: str, client: Client, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(report: Report) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR, logger="voiceassist.readiness"):
        broken.setattr(module, name, fail)
        for _ in range(3):
            assert client.get("/ready").status_code == 200
    assert failures_logged(caplog) == [message]
    assert client.get("/ready").status_code == 200  # and a later failure is logged again
    assert readiness._failing == set()


def test_background_thread_survives_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_text: Callable[..., int] = Path.write_text
    rounds: list[bool] = []

    def fail(path: Path, text: str) -> int:
        if len(rounds) < 3:
            raise OSError("No space left on device")
        return write_text(path, text)

    def next_round(seconds: float) -> None:
        rounds.append(True)
        if len(rounds) == 5:
            raise SystemExit

    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr("health.readiness.time.sleep", next_round)
    monkeypatch.setattr(readiness, "_runner", SimpleNamespace(report=lambda: None))  # its checks would log failures
    with pytest.raises(SystemExit), caplog.at_level(logging.ERROR, logger="voiceassist.readiness"):
        readiness._run_in_background()
    assert failures_logged(caplog) == ["publishing the state of this worker failed"]
    assert json.loads((folder / f"state_{os.getpid()}.json").read_text())["pid"] == os.getpid()
