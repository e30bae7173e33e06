"""The limit of open files (descriptors), and how many client connections of a worker fit below it.

A worker without a free descriptor can't accept any connection, not even one of a probe. Gunicorn's own worker would
exit.
"""

import resource

# gunicorn's default of `worker_connections`, enough for a load balancer's and for browsers' idle connections.
MAX_CONNECTIONS = 1000
MIN_CONNECTIONS = 16
# Enough for every worker. A higher limit would delay programs that close every possible descriptor before they start
# another program.
MAX_LIMIT = 65_536
# Descriptors of a worker besides those of clients. An idle worker has 26: files for the log, metrics, stacks and the
# heartbeat, pipes, the poller, the listening socket, and four connections of the readiness checks. The rest is for 5
# threads of probes and static files, name lookups and connections that are being replaced.
_RESERVE = 64
_RESERVE_PER_THREAD = 8  # connections to PostgreSQL, Redis and Qdrant, a selector and a static file


def required(threads: int) -> int:
    """Return the lowest limit with which a worker can serve."""
    return _RESERVE + threads * _RESERVE_PER_THREAD + MIN_CONNECTIONS


def limit() -> int:
    """Return the limit that `raise_limit` sets: the hard limit up to MAX_LIMIT, or the current one if it is higher."""
    soft, hard = (MAX_LIMIT if value == resource.RLIM_INFINITY else value for value in _limits())
    return max(soft, min(hard, MAX_LIMIT))


def raise_limit() -> None:
    """Raise the soft limit, which processes started from now on inherit."""
    soft, hard = _limits()
    if soft not in (limit(), resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit(), hard))


def worker_connections(threads: int) -> int:
    """Return how many client connections a worker with this number of threads may have."""
    available = limit() - required(threads) + MIN_CONNECTIONS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, available))


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
