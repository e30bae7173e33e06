"""The files into which prometheus_client writes the metrics of a process, allocated before they are mapped.

prometheus_client maps sparse files. On a full disk, a write to such a page ends the process with SIGBUS, which
Python can't catch. Here the blocks of a file are allocated first. If that fails, new values stay in memory, and are
missing from scrapes, until a later change of one of them finds space.

Import this module after the runtime folder exists, because prometheus_client reads its name at the first import.
"""

import errno
import logging
import os
import time

from prometheus_client import mmap_dict

from health.multiprocess import runtime_folder

log = logging.getLogger("voiceassist.metrics")

_MAX_OVERHEAD = 32  # bytes of an entry besides its key: length, padding, value and timestamp
_RETRY_INTERVAL = 1.0  # seconds between attempts to extend a file, because each attempt delays a request

_is_failing = False  # whether a file could not be extended, and none has been since


class MappedFile(mmap_dict.MmapedDict):
    """A dictionary of numbers in a file. Reading and writing a value never raises, so metrics can't fail a request."""

    def __init__(self, filename: str) -> None:
        self._fname = filename
        self._f = self._m = None  # type: ignore[assignment]
        self._capacity = self._used = 0
        self._positions: dict[str, int] = {}
        self._unwritten: dict[str, tuple[float, float]] = {}  # values and timestamps for which there was no space
        self._retry_at = 0.0  # time.monotonic() before which no attempt to extend the file is made

    def read_value(self, key: str) -> tuple[float, float]:
        try:
            return super().read_value(key)  # type: ignore[no-untyped-call, no-any-return]
        except Exception as error:
            self._log_once(error)
            return self._unwritten.setdefault(key, (0.0, 0.0))

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except Exception as error:
            self._unwritten[key] = value, timestamp
            self._log_once(error)

    def reserve(self, key: str) -> None:
        """Reserve space for the value of the key. Raise OSError if there is none."""
        if key in self._positions:
            return
        if time.monotonic() < self._retry_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._retry_at = time.monotonic() + _RETRY_INTERVAL
        if self._m is None:
            self._extend(mmap_dict._INITIAL_MMAP_SIZE)
        if key not in self._positions:
            if self._used + len(key.encode()) + _MAX_OVERHEAD > self._capacity:
                self._extend(2 * self._capacity)
            super()._init_value(key)  # type: ignore[no-untyped-call]
        self._retry_at = 0.0
        unwritten, self._unwritten = self._unwritten, {}
        for other, (value, timestamp) in unwritten.items():
            self.write_value(other, value, timestamp)

    _init_value = reserve  # prometheus_client calls it for an unknown key

    def _extend(self, size: int) -> None:
        global _is_failing
        runtime_folder.allocate(self._fname, size)
        if self._m is None:  # a second object, so that an exception leaves this one as it was
            vars(self).update(vars(mmap_dict.MmapedDict(self._fname)))
        _is_failing = False

    def _log_once(self, error: Exception) -> None:
        """Log the first error since a file of this process could be extended."""
        global _is_failing
        if not _is_failing:
            _is_failing = True
            log.error(
                "metrics are incomplete: %s could not be extended (%s). "
                "Free space in its folder, or restart if it is gone.",
                self._fname,
                getattr(error, "strerror", None) or type(error).__name__,
            )
