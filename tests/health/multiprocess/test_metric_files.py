"""Scrapes and merges with files that are damaged, unreadable or can't grow."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import mmap_key

from health.multiprocess import mapped_file, metric_files, runtime_folder
from health.multiprocess.mapped_file import MappedFile
from tests.support.full_disk import file_size_limit

Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_folder, "path", tmp_path)
    monkeypatch.setattr(metric_files, "_reported", set())
    monkeypatch.setattr(mapped_file, "_is_failing", False)
    return tmp_path


def write(path: Path, **values: float) -> None:
    file = MappedFile(str(path))
    for route, value in values.items():
        key = mmap_key("requests", "requests_total", ["route"], [route], "")
        file.write_value(key, value, 0.0)
    file.close()  # type: ignore[no-untyped-call]


def scraped() -> dict[str, float]:
    return {sample.labels["route"]: sample.value for metric in metric_files.read() for sample in metric.samples}


DAMAGE: list[tuple[str, Damage]] = [
    ("counter_2.db", lambda path: path.write_bytes(b"broken" * 1000)),
    ("counter_2.db", lambda path: path.write_bytes(bytes.fromhex("ffff0000") + bytes(100))),
    ("counter_2.db", lambda path: path.write_bytes(path.read_bytes()[:40])),  # truncated
    ("counter_2.db", lambda path: path.write_bytes(path.read_bytes().replace(b"requests_total", b'"equests_total'))),
    ("counter_2.db", lambda path: path.write_bytes(b"\x01")),
    ("histogram_2.db", lambda path: path.mkdir()),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_scrape_skips_file_that_cannot_be_read(
    name: str, damage: Damage, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder / "counter_1.db", a=1, b=2)
    write(folder / "counter_2.db", a=10)
    damage(folder / name)
    with caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        for _ in range(3):
            assert scraped()["b"] == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(f"metrics are incomplete: {name} can't be read (")


def test_scrape_without_a_folder_returns_nothing(folder: Path) -> None:
    folder.rmdir()
    assert scraped() == {}


@pytest.mark.parametrize(("name", "damage"), DAMAGE[:5])
@pytest.mark.parametrize("damaged", ["counter_2.db", "counter_merged.db"])
def test_merge_removes_damaged_file(
    damaged: str, name: str, damage: Damage, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for pid in ("1", "2", "3", "merged"):
        write(folder / f"counter_{pid}.db", a=1)
    damage(folder / damaged)
    with caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        metric_files.merge(alive={1})
    assert sorted(path.name for path in folder.iterdir()) == ["counter_1.db", "counter_merged.db"]
    assert scraped() == {"a": 3}
    assert [record.getMessage().split(": ")[1].split(" ")[0] for record in caplog.records] == [damaged]


def test_merge_that_fails_does_not_stop_the_others(folder: Path) -> None:
    (folder / "counter_2.db").mkdir()
    (folder / "gauge_livesum_4.db").mkdir()
    for pid in (1, 3, 5):
        write(folder / f"counter_{pid}.db", a=1)
    metric_files.merge(alive={1})
    assert {path.name for path in folder.glob("counter*")} == {"counter_1.db", "counter_2.db", "counter_merged.db"}
    assert scraped() == {"a": 3}


@pytest.mark.parametrize("merged_keys", [0, 500])
def test_merge_without_space_loses_nothing(merged_keys: int, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the merged file can't hold all new series, none of its values may change."""
    known = {f"old_{number}": 1.0 for number in range(merged_keys)}
    if known:
        write(folder / "counter_merged.db", **known)
    write(folder / "counter_2.db", **known, **{f"new_{number}": 1.0 for number in range(600)})
    before = scraped()
    with file_size_limit(100_000 if known else 1000), caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        for _ in range(3):
            metric_files.merge(alive={1})
    assert (folder / "counter_2.db").exists()
    assert {route: value for route, value in scraped().items() if value} == before
    (record,) = caplog.records
    assert record.getMessage().startswith("metrics of a dead worker stay in counter_2.db")
    metric_files.merge(alive={1})
    assert not (folder / "counter_2.db").exists()
    assert scraped() == before
