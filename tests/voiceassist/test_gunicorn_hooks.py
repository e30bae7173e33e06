"""What the master does when a worker has died, in one process: it keeps the values of those that live."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from health.multiprocess import metric_files, runtime_folder, worker_stacks, worker_states
from tests.health.multiprocess.test_metric_files import scraped, write
from voiceassist import gunicorn

DEAD, ALIVE = 100, 200


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the runtime folder of a master, this process, and two workers. One of the workers has died."""
    monkeypatch.setattr(runtime_folder, "path", tmp_path)
    for pid in (os.getpid(), DEAD, ALIVE):
        write(tmp_path / f"counter_{pid}.db", a=1)
        write(tmp_path / f"gauge_livesum_{pid}.db", b=1)
    for name, pid in (("worker-1", DEAD), ("worker-2", ALIVE)):
        (tmp_path / f"process_{name}").write_text(str(pid))
        (tmp_path / f"state_{pid}.json").write_text("{}")
    return tmp_path


def report_death() -> None:
    worker = SimpleNamespace(pid=DEAD, process_name="worker-1", aborted=False)
    gunicorn.child_exit(SimpleNamespace(WORKERS={ALIVE: None}), worker)


def test_only_the_metrics_of_the_dead_worker_are_merged(folder: Path) -> None:
    """The master, which is no worker, continues to write to its own files."""
    report_death()
    assert {path.name for path in folder.glob("*.db")} == {
        "counter_merged.db",
        *(f"{kind}_{pid}.db" for kind in ("counter", "gauge_livesum") for pid in (os.getpid(), ALIVE)),
    }
    assert scraped()["a"] == 3


def test_only_the_state_of_the_dead_worker_is_marked(folder: Path) -> None:
    report_death()
    assert {path.name for path in folder.glob("*.json")} == {f"dead_{DEAD}.json", f"state_{ALIVE}.json"}
    assert {path.name for path in folder.glob("process_*")} == {"process_worker-2"}


def test_process_id_of_a_replaced_worker_is_kept(folder: Path) -> None:
    """Its replacement may have registered itself under the same name."""
    (folder / "process_worker-1").write_text("300")
    report_death()
    assert (folder / "process_worker-1").read_text() == "300"


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        (worker_stacks, "log_stacks", "the stacks of a hung worker could not be logged"),
        (worker_states, "mark_dead", "the state of a dead worker could not be stored"),
        (metric_files, "merge", "the metrics of a dead worker could not be merged"),
    ],
    ids=["stacks", "state", "metrics"],
)
def test_failure_of_one_step_does_not_prevent_the_others(
    module: Any, function: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module, function, fail)
    with caplog.at_level(logging.ERROR, logger="voiceassist.server"):
        report_death()
    assert [record.getMessage() for record in caplog.records] == [message]
    assert (folder / f"dead_{DEAD}.json").exists() == (function != "mark_dead")
    assert (folder / "counter_merged.db").exists() == (function != "merge")
