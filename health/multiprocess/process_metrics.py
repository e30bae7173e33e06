"""Memory, CPU time and descriptors of the master and its workers, under the standard names of Prometheus.

    process_master      process id of the master        process_worker-1     process id of the first worker

Each worker has the lowest number that no living worker has, so replaced workers create no new series. A scrape reads
the values of all processes from /proc. They are stored nowhere, so a dead worker leaves no series behind. Systems
without /proc have none of these metrics.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from health.multiprocess import runtime_folder

if TYPE_CHECKING:
    from prometheus_client import Metric

MASTER = "master"
_PREFIX = "process_"


def name_of_next_worker(names: Iterable[str]) -> str:
    """Return the name of a worker to be started. `names` are those of the living workers."""
    used = set(names)
    return next(name for number in count(1) if (name := f"worker-{number}") not in used)


def register(name: str) -> None:
    """Store the id of this process under its name."""
    runtime_folder.write(f"{_PREFIX}{name}", str(os.getpid()))


def unregister(name: str, pid: int) -> None:
    """Remove the id of a dead worker. Only the master calls this."""
    assert runtime_folder.path
    path = runtime_folder.path / f"{_PREFIX}{name}"
    with suppress(FileNotFoundError):
        if path.read_text() == str(pid):
            path.unlink()


def collect() -> "Collection[Metric]":
    """Return the metrics of all processes, with the label `process`."""
    # The runtime folder must exist when prometheus_client is imported.
    from prometheus_client import Metric
    from prometheus_client.process_collector import ProcessCollector

    families: dict[str, Metric] = {}
    pid = ""
    collector = ProcessCollector(pid=lambda: pid, registry=None)  # one for all, because it reads /proc/stat first
    for name, pid in _processes().items():  # noqa: B007  # the collector reads `pid`
        for family in collector.collect():
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {"process": name}, sample.value)
    return families.values()


def _processes() -> dict[str, str]:
    """Return the ids of the running processes by their names."""
    pids = {}
    for path in sorted(runtime_folder.path.glob(f"{_PREFIX}*")) if runtime_folder.path else ():
        if path.suffix == ".tmp":
            continue
        with suppress(FileNotFoundError):  # the worker has ended in the meantime
            pids[path.name.removeprefix(_PREFIX)] = path.read_text()
    return pids
