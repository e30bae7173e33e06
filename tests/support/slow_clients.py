"""Clients that send or read slowly, to hold the server's threads and connections."""

import contextlib
import socket
import threading
import time
from typing import Self

HEAD = b"Host: localhost\r\nUser-Agent: slow\r\n"
INTERVAL = 0.5  # seconds between the bytes that each client sends


class SlowClients:
    """A context manager that opens `count` connections, sends `start` on each, and then a byte of `rest` now and then.

    `first` is sent before, and its response is read. `receive_buffer` limits what the system receives for a client that
    does not read.
    """

    def __init__(
        self,
        port: int,
        count: int,
        start: bytes,
        *,
        rest: bytes = b"",
        first: bytes = b"",
        receive_buffer: int = 0,
    ) -> None:
        self._start, self._rest, self._first = start, rest, first
        self.opened_at = time.monotonic()
        self.sockets = []
        for _ in range(count):
            client = socket.socket()
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            self.sockets.append(client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_slowly, daemon=True)

    def __enter__(self) -> Self:
        for client in self.sockets:
            if self._first:
                client.sendall(self._first)
                client.recv(65_536)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(self._start)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for client in self.sockets:
            client.close()

    def _send_slowly(self) -> None:
        position = 0
        while self._rest and not self._stop.wait(INTERVAL):
            for client in self.sockets:
                with contextlib.suppress(OSError):
                    client.send(self._rest[position % len(self._rest) :][:1])
            position += 1

    def seconds_until_closed(self, limit: float) -> float:
        """Return how long after the start the server had closed every connection. Fail after `limit` seconds."""
        for client in self.sockets:
            client.setblocking(True)
            while True:
                client.settimeout(max(0.01, self.opened_at + limit - time.monotonic()))
                try:
                    if not client.recv(65_536):
                        break
                except ConnectionError:
                    break
        return time.monotonic() - self.opened_at
