"""When the server began to drain, and when the last request came, in memory that the master and all workers share.

`voiceassist.gunicorn` imports this in the master, so that every worker inherits the same page of memory.
"""

import ctypes
import logging
import mmap
import time

# The part of the drain after which a request shows that the load balancer still sends some.
_LATE = 0.75

# time.monotonic(), which all processes share; 0 means never. Writing an aligned double is atomic.
_times = (ctypes.c_double * 2).from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
_BEGIN, _LAST_REQUEST = 0, 1


def begin() -> None:
    _times[_BEGIN] = time.monotonic()


def is_draining() -> bool:
    return _times[_BEGIN] > 0


def record_request() -> None:
    """Record that a request, which is not a probe, arrived while draining."""
    _times[_LAST_REQUEST] = time.monotonic()


def log_result(log: logging.Logger, drain_seconds: float, graceful_timeout: float) -> None:
    """Log once, when the workers have ended, whether the drain was long enough."""
    stopped = time.monotonic() - _times[_BEGIN]
    last = _times[_LAST_REQUEST] - _times[_BEGIN] if _times[_LAST_REQUEST] else None
    level, result = _judge(drain_seconds, last, stopped, graceful_timeout)
    came = "No request came" if last is None else f"The last request came {last:.1f} s"
    log.log(level, f"{result} {came} after SIGTERM; DRAIN_SECONDS is {drain_seconds:g}.")


def _judge(drain_seconds: float, last: float | None, stopped: float, graceful_timeout: float) -> tuple[int, str]:
    """Return the level and the text for a drain of `drain_seconds`. The other times are seconds after SIGTERM."""
    if stopped < drain_seconds:
        return logging.WARNING, "Stopped before the drain ended, because a second signal came."
    if stopped >= drain_seconds + graceful_timeout:
        return logging.WARNING, f"Stopped requests that were not finished {graceful_timeout:g} s after the drain."
    if last is not None and last > drain_seconds * _LATE:
        return logging.WARNING, (
            "Requests still came at the end of the drain. Raise DRAIN_SECONDS, or check that the load balancer "
            "follows /ready."
        )
    return logging.INFO, "Drained."
