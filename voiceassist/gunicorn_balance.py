"""Let the workers share connections evenly: a worker that has more than another waits before it accepts the next one.

All workers wait for connections on one socket, and each new one wakes all of them. Without this, a worker that happens
to be faster can accept all connections of a load balancer, which keeps them open, and the other workers stay idle.

SO_REUSEPORT (gunicorn's `reuse_port`) was rejected. The system would assign connections by a hash, which is uneven for
few of them. A connection that waits in the queue of a worker that dies would be lost, one that waits for a hung worker
would hang, and two servers could share a port unnoticed.
"""

import ctypes
import mmap
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

_MAX_WORKERS = 64  # others only take no part
# Seconds in which a worker with fewer connections accepts a new one, unless it is busy or hung.
_YIELD_TIME = 0.001
# A worker accepts one connection at a time, and one more for each of so many that it has, because it handles requests
# of all of them before it accepts again.
_CONNECTIONS_PER_ACCEPT = 8

# For each worker, in memory that all workers share: the number of its connections plus 1, or 0 if it accepts none.
_counts = (ctypes.c_int * _MAX_WORKERS).from_buffer(mmap.mmap(-1, mmap.PAGESIZE))


class BalancingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    process_name = ""  # worker-1, worker-2, …, set by the master. A replacement gets the name of the dead worker
    _connections = 0
    _index: int | None = None

    @property
    def nr_conns(self) -> int:
        """Gunicorn's number of open connections, which it increases and decreases."""
        return self._connections

    @nr_conns.setter
    def nr_conns(self, number: int) -> None:
        self._connections = number
        if self._index is not None:
            _counts[self._index] = number + 1

    def set_accept_enabled(self, enabled: bool) -> None:
        index = int(self.process_name.rpartition("-")[2] or 0) - 1
        self._index = index if enabled and 0 <= index < _MAX_WORKERS else None
        if self._index is not None:
            self.nr_conns = self.nr_conns
        elif 0 <= index < _MAX_WORKERS:
            _counts[index] = 0
        super().set_accept_enabled(enabled)

    def accept(self, listener: Any) -> None:
        if self.alive and self._index is not None and any(0 < count <= self._connections for count in _counts):
            time.sleep(_YIELD_TIME)
        for _ in range(1 + self._connections // _CONNECTIONS_PER_ACCEPT):
            before = self._connections
            super().accept(listener)
            if self._connections == before or self._connections >= self.worker_connections:
                return
