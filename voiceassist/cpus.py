"""The number of CPUs that this process may use, which is the default number of worker processes.

`os.cpu_count()` returns the CPUs of the machine, and a worker for each CPU of a large node would waste memory and
database connections in a container or systemd unit with a CPU quota.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAX_WORKERS = 8  # upper bound of the default; WEB_CONCURRENCY can set more


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the smallest of CPU affinity and cgroup quotas, rounded up, at least 1 and at most MAX_WORKERS."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([MAX_WORKERS, affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in CPUs, of this process's cgroup and of each of its parents that has one.

    Without a cgroup namespace, /proc/self/cgroup has the path on the host, but the container's own cgroup is mounted at
    the top. The walk up to the top finds it.
    """
    mount = root / "sys/fs/cgroup"
    for folder in _folders(root, mount):
        with suppress(OSError, ValueError):  # the file is missing or its quota is "max"
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError):
            quota, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
            if int(quota) > 0:  # -1 means no limit
                yield int(quota) / int(period)


def _folders(root: Path, mount: Path) -> Iterator[Path]:
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = mount / "cpu" if controllers else mount  # version 1 mounts each controller separately
            folder = top / path.lstrip("/")
            while folder != top:
                yield folder
                folder = folder.parent
            yield top
