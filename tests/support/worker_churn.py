"""A server in little: a master forks workers that count and are killed, and merges their files; others read meanwhile.

    python -m tests.support.worker_churn WORKERS READERS

Run as a process of its own, because prometheus_client asks where to write at its first import. Readers know how many
workers have surely counted and how many may have: what they read must lie between.
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable

from health.multiprocess import metric_files

metric_files.create()

from prometheus_client import Counter, Gauge, Histogram  # noqa: E402

DEATHS = Counter("deaths", "", ["kind"])
TIMES = Histogram("times", "", ["kind"], buckets=(1, 2))
LIVING = Gauge("living", "", multiprocess_mode="livesum")
LATEST = Gauge("latest", "", multiprocess_mode="mostrecent")

_numbers = mmap.mmap(-1, 8)  # workers begun, workers merged


def numbers() -> tuple[int, int]:
    begun, merged = struct.unpack("ii", _numbers[:])
    return begun, merged


def totals() -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in metric_files.read():
        for sample in metric.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def reader() -> None:
    while True:
        _, merged = numbers()
        found = totals()
        begun, _ = numbers()
        for name in ("deaths_total", "times_count", "times_sum"):
            if not merged <= found.get(name, 0) <= begun:
                print(f"{name} is {found.get(name)}, not {merged} to {begun}", flush=True)
                os._exit(1)
        if os.getppid() != parent:
            os._exit(0)


def worker(number: int) -> None:
    DEATHS.labels(str(number % 7)).inc()
    TIMES.labels(str(number % 5)).observe(1)
    LIVING.inc()
    LATEST.set(number)
    os.kill(os.getpid(), signal.SIGKILL)


def fork(run: Callable[..., None], *arguments: int) -> int:
    if pid := os.fork():
        return pid
    run(*arguments)
    os._exit(0)


if __name__ == "__main__":
    parent = os.getpid()
    workers, readers = int(sys.argv[1]), int(sys.argv[2])
    assert metric_files.folder
    (metric_files.folder / "counter_999999.db").touch()  # of one that died as soon as it had made it
    reading = [fork(reader) for _ in range(readers)]
    for number in range(1, workers + 1):
        _numbers[:] = struct.pack("ii", number, number - 1)
        os.waitpid(fork(worker, number), 0)
        metric_files.merge(alive={parent, *reading})
        _numbers[:] = struct.pack("ii", number, number)
    failed = [os.waitpid(pid, os.WNOHANG)[0] for pid in reading]
    for pid in reading:
        os.kill(pid, signal.SIGKILL)
    found = totals()
    print(sorted(path.name.replace(str(parent), "master") for path in metric_files.folder.glob("*.db")))
    print({name: found[name] for name in ("deaths_total", "times_count", "times_bucket", "latest", "living")})
    metric_files.remove()
    sys.exit(any(failed))
