"""The standard metrics of the master and of every worker, whichever worker responds to the scrape."""

import re
import signal
from collections.abc import Iterator

import psutil
import pytest

from health.multiprocess.process_metrics import name_of_next_worker
from tests.health.test_metrics import kill_workers, scrape
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer

NAMES = {"master", "worker-1", "worker-2", "worker-3"}
METRICS = {
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
}


@pytest.fixture(scope="module")
def app() -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(WEB_CONCURRENCY="3") as app:
        assert succeeds_within(10, lambda: set(values(app, "process_open_fds")) == NAMES)
        yield app


def values(app: VoiceAssistServer, metric: str) -> dict[str, float]:
    """Return the values of a metric by process."""
    found = {}
    for series, value in scrape(app).items():
        if match := re.fullmatch(rf'{metric}{{process="([^"]*)"}}', series):
            found[match[1]] = value
    return found


def test_every_process_has_every_metric(app: VoiceAssistServer) -> None:
    series = {name.partition("{")[0] for name in scrape(app) if name.startswith("process_")}
    assert series == METRICS
    for metric in METRICS:
        assert set(values(app, metric)) == NAMES


def test_values_are_those_of_the_processes(app: VoiceAssistServer) -> None:
    processes = [psutil.Process(app.process.pid), *app.workers()]
    started = sorted(values(app, "process_start_time_seconds").values())
    assert started == pytest.approx(sorted(process.create_time() for process in processes), abs=1)
    assert values(app, "process_max_fds")["worker-2"] == processes[1].rlimit(psutil.RLIMIT_NOFILE)[0]
    memory = values(app, "process_resident_memory_bytes")
    assert memory["master"] == pytest.approx(processes[0].memory_info().rss, rel=0.2)
    before = values(app, "process_cpu_seconds_total")
    for _ in range(300):
        app.get("/")
    after = values(app, "process_cpu_seconds_total")
    assert sum(after.values()) > sum(before.values())


def test_replaced_workers_create_no_new_series(app: VoiceAssistServer) -> None:
    for _ in range(3):
        before = values(app, "process_start_time_seconds")
        kill_workers(app)
        assert succeeds_within(10, lambda: set(values(app, "process_start_time_seconds")) == NAMES)
        after = values(app, "process_start_time_seconds")
        assert after["master"] == before["master"]
        assert all(after[name] > before[name] for name in NAMES - {"master"})


def test_removed_worker_leaves_no_series() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="2") as app:
        assert succeeds_within(10, lambda: len(values(app, "process_open_fds")) == 3)
        app.process.send_signal(signal.SIGTTOU)  # one worker less
        assert succeeds_within(10, lambda: len(app.workers()) == 1)
        assert succeeds_within(5, lambda: len(values(app, "process_open_fds")) == 2)


@pytest.mark.parametrize(
    ("living", "name"),
    [([], "worker-1"), (["worker-1", "worker-2"], "worker-3"), (["worker-3", "worker-1"], "worker-2")],
)
def test_next_worker_has_the_lowest_free_number(living: list[str], name: str) -> None:
    assert name_of_next_worker(living) == name
