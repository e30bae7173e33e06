"""The files in which the processes of one server keep what they measure, as prometheus_client writes them.

    counter_17.db  histogram_17.db  gauge_livesum_17.db     of a process, one of each kind
    counter_merged.db  histogram_merged.db                  of all workers that have died

The master adds the files of a worker that died to the merged ones. Who reads meanwhile reads again: both know of it by
one byte that they share, so the master never waits for a worker, not even for one that is frozen while it reads.

prometheus_client reads `PROMETHEUS_MULTIPROC_DIR` at its first import, so it is imported here by who needs it.
"""

import fcntl
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

_PREFIX = "voiceassist-metrics-"
_TRIES = 200

folder: Path | None = None  # of this server; None outside of gunicorn
_merges = mmap.mmap(-1, 1)  # counts beginnings and ends: odd while the master merges


def create() -> None:
    """Makes the folder, and removes those that killed servers have left.

    A folder is locked as long as the master or a worker lives: workers inherit the lock, the kernel frees it.
    """
    global folder
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or in use
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
    while folder is None:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(os.open(made, os.O_RDONLY), fcntl.LOCK_SH)
        if made.exists():  # else another server that starts right now took it for one that is left
            folder = made
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def remove() -> None:
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def read() -> "Iterable[Metric]":
    """Returns what all processes have measured, those that died included, each value once."""
    from prometheus_client.multiprocess import MultiProcessCollector

    for _ in range(_TRIES):
        before = _merges[0]
        if before % 2 == 0:
            with suppress(FileNotFoundError):
                # A process that has just made its file has nothing in it yet.
                files = [str(path) for path in _files() if path.stat().st_size]
                metrics: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
                if _merges[0] == before:
                    return metrics
        time.sleep(0.005)
    raise RuntimeError("workers die faster than their metrics can be read")


def merge(alive: Collection[int]) -> None:
    """Adds up the files of processes other than `alive`. Only the master may call it."""
    _merges[0] = (_merges[0] + 1) % 256
    try:
        for path in _files():
            process = path.stem.rpartition("_")[2]
            if process.isdecimal() and int(process) not in alive:
                if path.stat().st_size and not path.name.startswith("gauge_live"):
                    _add(path, path.with_stem(path.stem.replace(process, "merged")))
                path.unlink()
    finally:
        _merges[0] = (_merges[0] + 1) % 256


def _files() -> Iterable[Path]:
    assert folder
    return list(folder.glob("*.db"))


def _add(path: Path, merged: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    values = list(MmapedDict.read_all_values_from_file(path))  # type: ignore[no-untyped-call]
    into = MmapedDict(str(merged))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in values:
        known, known_timestamp = into.read_value(key)  # type: ignore[no-untyped-call]
        if not path.name.startswith("gauge"):
            into.write_value(key, known + value, 0.0)  # type: ignore[no-untyped-call]
        elif timestamp > known_timestamp:  # of gauges that outlive their process we have only "mostrecent"
            into.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
    into.close()  # type: ignore[no-untyped-call]
