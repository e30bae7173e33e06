"""Metric files without holes, and values that stay in memory while there is no space for them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import mmap_dict, values

from health.multiprocess import mapped_file, metric_files, runtime_folder
from health.multiprocess.mapped_file import MappedFile
from tests.support.full_disk import file_size_limit

KIB = 1024


@pytest.fixture(autouse=True)
def no_failure_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_file, "_is_failing", False)
    monkeypatch.setattr(mapped_file, "_RETRY_INTERVAL", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter_1.db"


@pytest.fixture
def file(path: Path) -> Iterator[MappedFile]:
    file = MappedFile(str(path))
    yield file
    file.close()  # type: ignore[no-untyped-call]


def stored(path: Path) -> dict[str, float]:
    """Return the values that a scrape would read."""
    entries = MappedFile.read_all_values_from_file(path) if path.stat().st_size else ()  # type: ignore[no-untyped-call]
    return {key: value for key, value, *_ in entries}


def test_files_have_no_holes(path: Path, file: MappedFile) -> None:
    for number in range(3000):
        file.write_value(f"key{number}", number, 0.0)
        status = path.stat()
        assert status.st_blocks * 512 >= status.st_size
    assert status.st_size == 128 * KIB
    assert stored(path) == {f"key{number}": number for number in range(3000)}


def test_values_stay_in_memory_until_there_is_space(
    path: Path, file: MappedFile, caplog: pytest.LogCaptureFixture
) -> None:
    with file_size_limit(20 * KIB), caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        assert file.read_value("key") == file.read_value("zero") == (0.0, 0.0)
        for value in range(100):
            file.write_value("key", value, 0.0)
            file.write_value("other", value, 1.0)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"metrics are incomplete: {path} could not be extended (File too large). "
        "Free space in its folder, or restart if it is gone."
    )
    assert stored(path) == {}
    file.write_value("key", 100, 0.0)
    assert stored(path) == {"key": 100, "other": 99, "zero": 0}


def test_old_values_are_written_while_the_file_cannot_grow(
    path: Path, file: MappedFile, caplog: pytest.LogCaptureFixture
) -> None:
    with file_size_limit(100 * KIB), caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        for value in (1.0, 2.0):
            for number in range(3000):
                file.write_value(f"key{number}", value, 0.0)
    assert 1000 < len(stored(path)) < 3000
    assert set(stored(path).values()) == {2.0}
    assert path.stat().st_size == 64 * KIB
    assert len(caplog.records) == 1
    file.write_value("key2999", 2.0, 0.0)
    assert stored(path) == {f"key{number}": 2.0 for number in range(3000)}


def test_a_later_failure_is_logged_again(file: MappedFile, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        for limit in (20 * KIB, 200 * KIB):
            with file_size_limit(limit):
                for number in range(3000):
                    file.write_value(f"key{number} {limit}", 1.0, 0.0)
            file.write_value("another", 1.0, 0.0)
    assert len(caplog.records) == 2


def test_attempts_to_extend_a_file_are_limited(file: MappedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def allocate(path: str, size: int) -> None:
        attempts.append(path)
        raise OSError("No space left on device")

    monkeypatch.setattr(mapped_file, "_RETRY_INTERVAL", 60.0)
    monkeypatch.setattr(runtime_folder, "allocate", allocate)
    for number in range(100):
        file.write_value(f"key{number}", 1.0, 0.0)
    assert len(attempts) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # prometheus_client leaves it open
@pytest.mark.parametrize("content", [b"broken" * 1000, bytes.fromhex("ffff0000") + bytes(100)])
def test_damaged_file_fails_no_request(
    content: bytes, path: Path, file: MappedFile, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)  # left by a process with the same pid
    with caplog.at_level(logging.ERROR, logger="voiceassist.metrics"):
        file.write_value("key", 1.0, 0.0)
        assert file.read_value("key") == (1.0, 0.0)
    assert len(caplog.records) == 1


def test_missing_folder_fails_no_request(tmp_path: Path) -> None:
    file = MappedFile(str(tmp_path / "removed" / "counter_1.db"))
    file.write_value("key", 1.0, 0.0)
    (tmp_path / "removed").mkdir()
    file.write_value("key", 2.0, 0.0)
    assert stored(tmp_path / "removed" / "counter_1.db") == {"key": 2.0}
    file.close()  # type: ignore[no-untyped-call]


def test_prometheus_client_uses_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MmapedDict", mmap_dict.MmapedDict)  # both are restored after the test
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metric_files.start()
    create = values.MultiProcessValue(lambda: 17)  # type: ignore[no-untyped-call]
    with file_size_limit(20 * KIB):
        value = create("counter", "requests", "requests_total", (), (), "")
        value.inc(2)
    value.inc(1)
    (number,) = stored(tmp_path / "counter_17.db").values()
    assert (number, value.get()) == (3.0, 3.0)
    create.close_all_files()


def test_allocation_leaves_a_file_as_it_was_without_space(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1000)
    with file_size_limit(5000), pytest.raises(OSError, match="File too large"):
        runtime_folder.allocate(path, 10_000)
    assert path.read_bytes() == b"a" * 1000
    runtime_folder.allocate(path, 10_000)
    assert path.read_bytes() == b"a" * 1000 + bytes(9000)
    runtime_folder.allocate(path, 10)
    assert path.stat().st_size == 10_000


# The moments at which a file is extended, with a clock that only the test moves


class Extended:
    """Records the sizes to which a file is extended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.fails = False
        self.now = 1000.0
        self._allocate = runtime_folder.allocate
        monkeypatch.setattr(runtime_folder, "allocate", self.allocate)
        monkeypatch.setattr(mapped_file, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(mapped_file, "_RETRY_INTERVAL", RETRY_INTERVAL)

    def allocate(self, path: str, size: int) -> None:
        self.sizes.append(size)
        if self.fails:
            raise OSError(28, "No space left on device")
        self._allocate(path, size)


RETRY_INTERVAL = mapped_file._RETRY_INTERVAL


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> Extended:
    return Extended(monkeypatch)


def test_file_is_doubled_when_the_next_entry_may_not_fit(file: MappedFile, extended: Extended) -> None:
    """An entry has its length, the padded key, the value and the time, in up to 32 bytes besides the key."""
    file.reserve("first")
    assert extended.sizes == [64 * KIB]
    free = 64 * KIB - file._used
    file.reserve("k" * (free - 32 - 1000))  # leaves room for an entry of 1,000 bytes
    assert extended.sizes == [64 * KIB]
    left = 64 * KIB - file._used
    file.reserve("x" * (left - 32))
    assert extended.sizes == [64 * KIB]
    file.reserve("y")
    assert extended.sizes == [64 * KIB, 128 * KIB]
    file.reserve("y")
    file.reserve("ü" * 40_000)  # of two bytes each
    assert extended.sizes == [64 * KIB, 128 * KIB, 256 * KIB]


def test_attempts_are_a_second_apart(file: MappedFile, extended: Extended) -> None:
    extended.fails = True
    for now, attempts in ((1000.0, 1), (1000.9, 1), (1001.0, 2), (1001.9, 2), (1002.0, 3)):
        extended.now = now
        file.write_value("key", now, 0.0)
        assert len(extended.sizes) == attempts
    extended.fails = False
    extended.now = 1003.0
    file.write_value("key", 7.0, 0.0)
    file.write_value("another", 8.0, 0.0)  # does not wait, because there is space again
    assert file.read_value("key") == (7.0, 0.0)
    assert len(file._positions) == 2


def test_error_of_reading_is_logged_too(
    file: MappedFile, path: Path, extended: Extended, caplog: pytest.LogCaptureFixture
) -> None:
    extended.fails = True
    with caplog.at_level(logging.ERROR):
        assert file.read_value("key") == (0.0, 0.0)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (
            "voiceassist.metrics",
            f"metrics are incomplete: {path} could not be extended (No space left on device). "
            "Free space in its folder, or restart if it is gone.",
        )
    ]


def test_error_without_text_of_the_system_is_named(
    file: MappedFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str, size: int) -> None:
        raise ValueError("quotes a value")

    monkeypatch.setattr(runtime_folder, "allocate", fail)
    with caplog.at_level(logging.ERROR):
        file.write_value("key", 1.0, 0.0)
    assert "could not be extended (ValueError). " in caplog.records[0].getMessage()
