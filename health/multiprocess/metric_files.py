"""Metrics of all processes of one server, in the files that prometheus_client writes to the runtime folder.

    counter_17.db  histogram_17.db  gauge_livesum_17.db     of process 17, one file of each kind
    counter_merged.db  histogram_merged.db                  of all workers that have died

The master adds the files of a dead worker to the merged ones, otherwise they would accumulate. A reader that overlaps a
merge reads again. A byte in shared memory counts the merges, so that the master never waits for a reader, even if it
hangs.

prometheus_client is imported in functions only, because the runtime folder must exist at its first import.
"""

import logging
import mmap
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

_merges = mmap.mmap(-1, 1)  # incremented at the start and at the end of a merge: odd while one is running


def read() -> "Iterable[Metric]":
    """Return the metrics of all processes, including dead ones. Raise RuntimeError if merges never pause."""
    from prometheus_client.multiprocess import MultiProcessCollector

    for _ in range(_MAX_READS):
        before = _merges[0]
        if before % 2 == 0:
            with suppress(FileNotFoundError):
                # A file is empty until its process has initialised it.
                files = [str(path) for path in _files() if path.stat().st_size]
                metrics: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
                if _merges[0] == before:
                    return metrics
        time.sleep(_RETRY_INTERVAL)
    raise RuntimeError("Could not read metrics, because workers exit too often. Find the cause in the log.")


def merge(alive: Collection[int]) -> None:
    """Merge the files of processes that are not `alive`. Only the master may call it.

    A file that can't be merged is logged and removed, because otherwise every later scrape would fail.
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
            except Exception:
                log.exception("metrics of a dead worker are lost: %s could not be merged", path.name)
            path.unlink()
    finally:
        _merges[0] = (_merges[0] + 1) % 256


def _files() -> Iterable[Path]:
    assert runtime_folder.path
    return list(runtime_folder.path.glob("*.db"))


def _add(path: Path, merged_path: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    values = list(MmapedDict.read_all_values_from_file(path))  # type: ignore[no-untyped-call]
    merged = MmapedDict(str(merged_path))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in values:
        merged_value, merged_timestamp = merged.read_value(key)  # type: ignore[no-untyped-call]
        if not path.name.startswith("gauge"):
            merged.write_value(key, merged_value + value, 0.0)  # type: ignore[no-untyped-call]
        elif timestamp > merged_timestamp:  # a "mostrecent" gauge, the only kind that outlives its process
            merged.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
    merged.close()  # type: ignore[no-untyped-call]
