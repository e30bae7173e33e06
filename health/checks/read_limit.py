"""Limit what a check reads: the time until the last byte, and the number of bytes.

A socket's timeout applies to each read. Without this limit, a server that sends one byte at a time would occupy the
thread of a check forever.
"""

import io
import math
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from health.checks.failure_reasons import BAD_RESPONSE, CheckFailed

MAX_BYTES = 1_000_000  # that one check may read
_MIN_TIMEOUT = 0.01  # seconds; 0 would mean "do not wait"


class ReadLimit:
    """The limit of one check, for all sockets that it wraps."""

    def __init__(self) -> None:
        self._deadline = math.inf
        self._bytes_left = MAX_BYTES

    def start(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._bytes_left = MAX_BYTES

    def shorten(self, timeout: float | None) -> float:
        """Return the timeout of one read, which ends at the deadline. The client's own is that of its first check."""
        left = max(_MIN_TIMEOUT, self._deadline - time.monotonic())
        return left if timeout is None else min(timeout, left)

    def wrap(self, connected: socket.socket) -> socket.socket:
        """Return an object that behaves like the socket, and raises TimeoutError or CheckFailed at the limit."""
        return cast(socket.socket, _LimitedSocket(connected, self))

    def read(self, receive: Callable[[], Any]) -> Any:
        """Return the result of `receive`, the bytes that were read or their number."""
        if time.monotonic() > self._deadline:
            raise TimeoutError("The response did not end in time")
        received = receive()
        self._bytes_left -= received if isinstance(received, int) else len(received or b"")
        if self._bytes_left < 0:
            raise CheckFailed(BAD_RESPONSE, f"The response exceeds {MAX_BYTES} bytes")
        return received


class _LimitedSocket:
    def __init__(self, connected: socket.socket, limit: ReadLimit) -> None:
        self._socket, self._limit = connected, limit

    def recv(self, size: int) -> Any:
        timeout = self._socket.gettimeout()
        self._socket.settimeout(self._limit.shorten(timeout))
        try:
            return self._limit.read(lambda: self._socket.recv(size))
        finally:
            self._socket.settimeout(timeout)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_LimitedFile(self._socket.makefile("rb", buffering=0), self._limit))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _LimitedFile(io.RawIOBase):
    def __init__(self, file: socket.SocketIO, limit: ReadLimit) -> None:
        self._file, self._limit = file, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        return self._limit.read(lambda: self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()
