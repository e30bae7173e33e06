"""Metrics of all processes of one server, in the files that prometheus_client writes to the runtime folder.

    counter_17.db  histogram_17.db  gauge_livesum_17.db     of process 17, one file of each kind
    counter_merged.db  histogram_merged.db                  of all workers that have died

The master adds the files of a dead worker to the merged ones, otherwise they would accumulate. A reader that overlaps a
merge reads again. A byte in shared memory counts the merges, so that the master never waits for a reader, even if it
hangs. A scrape skips files that can't be read.

prometheus_client is imported in functions only, because the runtime folder must exist at its first import.
"""

import errno
import logging
import mmap
import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from health.multiprocess import runtime_folder

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger("voiceassist.metrics")

_MAX_READS = 200
_RETRY_INTERVAL = 0.005  # seconds

_TEMPORARY_ERRORS = (errno.ENOENT, errno.EMFILE, errno.ENFILE)  # merged in the meantime, too many open files

_merges = mmap.mmap(-1, 1)  # incremented at the start and at the end of a merge: odd while one is running
_reported: set[str] = set()  # files about which this process has logged an error

_pid = os.getpid()


def _reset_after_fork() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_reset_after_fork)


def start() -> None:
    """Make prometheus_client use MappedFile in this process and its workers. Call it before a metric is created."""
    from prometheus_client import values

    from health.multiprocess.mapped_file import MappedFile

    # Private: prometheus_client has no setting for the class of its files.
    values.MmapedDict = MappedFile  # type: ignore[assignment, attr-defined]
    # Otherwise each of about 20 changes per request would be a system call for the process id.
    values.ValueClass = values.MultiProcessValue(lambda: _pid)  # type: ignore[no-untyped-call]


def read() -> "Iterable[Metric]":
    """Return the metrics of all processes, including dead ones. Raise RuntimeError if merges never pause."""
    for _ in range(_MAX_READS):
        before = _merges[0]
        if before % 2 == 0:
            with suppress(FileNotFoundError):
                # A file is empty until its process has initialised it.
                metrics = _read_files([path for path in _files() if path.stat().st_size])
                if _merges[0] == before:
                    return metrics
        time.sleep(_RETRY_INTERVAL)
    raise RuntimeError("Could not read metrics, because workers exit too often. Find the cause in the log.")


def _read_files(paths: Collection[Path]) -> "Iterable[Metric]":
    """Return the metrics in the files, except those that can't be read."""
    try:
        return _collect(paths)
    except Exception:
        readable = []
        for path in paths:
            if error := _read_error(path):
                _log_once("metrics are incomplete: %s can't be read (%s)", path, error)
            else:
                readable.append(path)
        return _collect(readable)


def _collect(paths: Iterable[Path]) -> "Iterable[Metric]":
    from prometheus_client.multiprocess import MultiProcessCollector

    metrics: Iterable[Metric] = MultiProcessCollector.merge(map(str, paths))  # type: ignore[no-untyped-call]
    return metrics


def _read_error(path: Path) -> Exception | None:
    """Return the exception if the file can't be read. Raise it instead if it is temporary."""
    try:
        _collect([path])
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _TEMPORARY_ERRORS:
            raise
        return error
    return None


def _log_once(message: str, path: Path, error: Exception) -> None:
    """Log the names of the file and of the error, unless this process has already logged an error of the file."""
    if path.name not in _reported:
        _reported.add(path.name)
        log.error(message, path.name, getattr(error, "strerror", None) or type(error).__name__)


def merge(alive: Collection[int]) -> None:
    """Merge the files of processes that are not `alive`. Only the master may call it.

    A damaged file is removed. A file for which there is no space stays for scrapes and the next merge.
    """
    _merges[0] = (_merges[0] + 1) % 256
    try:
        for path in _files():
            pid = path.stem.rpartition("_")[2]
            if not pid.isdecimal() or int(pid) in alive:
                continue
            try:
                if path.stat().st_size and not path.name.startswith("gauge_live"):
                    _add(path, path.with_stem(path.stem.replace(pid, "merged")))
                path.unlink(missing_ok=True)
            except OSError as error:
                _log_once("metrics of a dead worker stay in %s, because it can't be merged (%s)", path, error)
    finally:
        _merges[0] = (_merges[0] + 1) % 256


def _files() -> Collection[Path]:
    assert runtime_folder.path
    return list(runtime_folder.path.glob("*.db"))


def _add(path: Path, merged_path: Path) -> None:
    """Add the values in a file to the merged ones. Raise OSError, and add nothing, if there is no space for them."""
    from health.multiprocess.mapped_file import MappedFile

    for file in (path, merged_path):
        if file.exists() and file.stat().st_size and (error := _read_error(file)):
            if isinstance(error, OSError):
                raise error
            log.error("metrics of dead workers are lost: %s was damaged (%s)", file.name, type(error).__name__)
            file.unlink()
    if not path.exists():
        return
    values = list(MappedFile.read_all_values_from_file(path))  # type: ignore[no-untyped-call]
    merged = MappedFile(str(merged_path))
    try:
        for key, *_ in values:
            merged.reserve(key)
        for key, value, timestamp, _ in values:
            merged_value, merged_timestamp = merged.read_value(key)
            if not path.name.startswith("gauge"):
                merged.write_value(key, merged_value + value, 0.0)
            elif timestamp > merged_timestamp:  # a "mostrecent" gauge, the only kind that outlives its process
                merged.write_value(key, value, timestamp)
    finally:
        merged.close()  # type: ignore[no-untyped-call]
