"""Reads that overlap a merge, errors that are temporary, and how values of dead workers are combined."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.mmap_dict import mmap_key

from health.multiprocess import metric_files
from health.multiprocess.mapped_file import MappedFile
from tests.health.multiprocess.test_metric_files import folder, scraped, write
from tests.support.forks import exit_code_in_fork

__all__ = ["folder"]
LOGGER = "voiceassist.metrics"


@pytest.fixture(autouse=True)
def merges(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    merges = bytearray(1)
    monkeypatch.setattr(metric_files, "_merges", merges)
    return merges


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    sleeps: list[float] = []
    monkeypatch.setattr(metric_files, "time", SimpleNamespace(sleep=sleeps.append))
    return sleeps


# Reading


def test_reader_waits_at_most_a_second_for_merges_to_pause(merges: bytearray, sleeps: list[float]) -> None:
    merges[0] = 1
    message = "Could not read metrics, because workers exit too often. Find the cause in the log."
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        metric_files.read()
    assert sleeps == [0.005] * 200


@pytest.mark.parametrize("count", [0, 2, 254])
def test_reader_reads_at_once_while_no_merge_runs(
    count: int, merges: bytearray, sleeps: list[float], folder: Path
) -> None:
    write(folder / "counter_1.db", a=1)
    merges[0] = count
    assert scraped() == {"a": 1}
    assert sleeps == []


@pytest.mark.parametrize("changes", [1, 2], ids=["still running", "ended"])
def test_read_that_overlaps_a_merge_is_repeated(
    changes: int, merges: bytearray, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter(["overlapped", "later"])

    def read_files(paths: object) -> Any:
        result = next(results)
        if result == "overlapped":
            merges[0] += changes
        return result

    def end_merge(seconds: float) -> None:
        sleeps.append(seconds)
        merges[0] = 2

    monkeypatch.setattr(metric_files, "_read_files", read_files)
    monkeypatch.setattr(metric_files, "time", SimpleNamespace(sleep=end_merge))
    assert metric_files.read() == "later"  # type: ignore[comparison-overlap]
    assert sleeps == [0.005]


def test_read_is_repeated_if_a_file_was_merged_in_the_meantime(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sleeps: list[float]
) -> None:
    write(folder / "counter_1.db", a=1)
    listings: Iterator[list[Path]] = iter([[folder / "counter_2.db"], [folder / "counter_1.db"]])
    monkeypatch.setattr(metric_files, "_files", lambda: next(listings))
    assert scraped() == {"a": 1}
    assert sleeps == [0.005]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_temporary_error_is_raised(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(paths: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(metric_files, "_collect", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        metric_files._read_files([folder / "counter_1.db"])
    assert metric_files._reported == set()


def test_other_errors_are_logged_once_for_each_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = {"a.db": OSError(errno.EIO, "Input/output error"), "b.db": ValueError("quotes a value")}

    def fail(paths: list[Path]) -> list[object]:
        for path in paths:
            raise errors[Path(path).name]
        return []

    monkeypatch.setattr(metric_files, "_collect", fail)
    with caplog.at_level(logging.ERROR, logger=LOGGER):
        for _ in range(2):
            assert metric_files._read_files([folder / "a.db", folder / "b.db"]) == []
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (LOGGER, "metrics are incomplete: a.db can't be read (Input/output error)"),
        (LOGGER, "metrics are incomplete: b.db can't be read (ValueError)"),
    ]


# Merging


@pytest.mark.parametrize("before", [0, 254])
def test_merge_is_counted_at_its_start_and_end(
    before: int, merges: bytearray, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(path: Path, merged: Path) -> None:
        seen.append(merges[0])
        raise RuntimeError

    write(folder / "counter_2.db", a=1)
    monkeypatch.setattr(metric_files, "_add", fail)
    merges[0] = before
    with pytest.raises(RuntimeError):
        metric_files.merge(alive=set())
    assert (seen, merges[0]) == ([before + 1], (before + 2) % 256)


def test_empty_file_is_removed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "counter_2.db").touch()  # its process was killed before it wrote a value
    with caplog.at_level(logging.ERROR, logger=LOGGER):
        metric_files.merge(alive={1})
    assert list(folder.iterdir()) == []
    assert caplog.records == []


def gauge(path: Path, value: float, timestamp: float) -> None:
    file = MappedFile(str(path))
    file.write_value(KEY, value, timestamp)
    file.close()  # type: ignore[no-untyped-call]


KEY = mmap_key("last_success", "last_success", [], [], "")


def stored(path: Path) -> dict[str, tuple[float, float]]:
    entries = MappedFile.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
    return {key: (value, timestamp) for key, value, timestamp, _ in entries}


@pytest.mark.parametrize(
    ("second", "expected"),
    [((5.0, 20.0), (5.0, 20.0)), ((5.0, 9.0), (7.0, 10.0)), ((5.0, 10.0), (7.0, 10.0))],
    ids=["later", "earlier", "at the same time"],
)
def test_most_recent_value_of_dead_workers_is_kept(
    second: tuple[float, float], expected: tuple[float, float], folder: Path
) -> None:
    gauge(folder / "gauge_mostrecent_2.db", 7.0, 10.0)
    metric_files.merge(alive={1})
    gauge(folder / "gauge_mostrecent_3.db", *second)
    metric_files.merge(alive={1})
    assert stored(folder / "gauge_mostrecent_merged.db") == {KEY: expected}
    assert len(list(folder.iterdir())) == 1


def test_counters_are_added_and_have_no_time(folder: Path) -> None:
    for pid, value in ((2, 1.0), (3, 10.0)):
        gauge(folder / f"counter_{pid}.db", value, 99.0)
    metric_files.merge(alive={1})
    assert stored(folder / "counter_merged.db") == {KEY: (11.0, 0.0)}


def test_forked_process_has_its_own_id() -> None:
    def assert_id_is_current() -> None:
        assert metric_files._pid == os.getpid()

    assert exit_code_in_fork(assert_id_is_current) == 0
    assert_id_is_current()
