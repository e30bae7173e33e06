"""A miniature server: a master forks workers that count and are killed, and merges their files while others read.

    python -m tests.support.worker_churn WORKERS READERS

It is a separate program, because prometheus_client reads its folder from the environment at its first import. A reader
knows the minimum and the maximum of what the workers have counted so far, and fails if it reads anything else.
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable

from health.multiprocess import metric_files, runtime_folder

runtime_folder.create()
metric_files.start()

from prometheus_client import Counter, Gauge, Histogram  # noqa: E402

DEATHS = Counter("deaths", "", ["kind"])
TIMES = Histogram("times", "", ["kind"], buckets=(1, 2))
LIVING = Gauge("living", "", multiprocess_mode="livesum")
LATEST = Gauge("latest", "", multiprocess_mode="mostrecent")

_numbers = mmap.mmap(-1, 8)  # workers started, workers merged


def numbers() -> tuple[int, int]:
    started, merged = struct.unpack("ii", _numbers[:])
    return started, merged


def totals() -> dict[str, float]:
    sums: dict[str, float] = {}
    for metric in metric_files.read():
        for sample in metric.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def reader() -> None:
    while True:
        _, merged = numbers()
        sums = totals()
        started, _ = numbers()
        for name in ("deaths_total", "times_count", "times_sum"):
            if not merged <= sums.get(name, 0) <= started:
                print(f"{name} is {sums.get(name)}, not {merged} to {started}", flush=True)
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
    worker_count, reader_count = int(sys.argv[1]), int(sys.argv[2])
    assert runtime_folder.path
    (runtime_folder.path / "counter_999999.db").touch()  # of a process that died before it wrote anything
    readers = [fork(reader) for _ in range(reader_count)]
    for number in range(1, worker_count + 1):
        _numbers[:] = struct.pack("ii", number, number - 1)
        os.waitpid(fork(worker, number), 0)
        metric_files.merge(alive={parent, *readers})
        _numbers[:] = struct.pack("ii", number, number)
    failed = [os.waitpid(pid, os.WNOHANG)[0] for pid in readers]
    for pid in readers:
        os.kill(pid, signal.SIGKILL)
    sums = totals()
    print(sorted(path.name.replace(str(parent), "master") for path in runtime_folder.path.glob("*.db")))
    print({name: sums[name] for name in ("deaths_total", "times_count", "times_bucket", "latest", "living")})
    runtime_folder.remove()
    sys.exit(any(failed))
