"""Threads that send load to a server while a block runs."""

import threading
from collections.abc import Callable
from typing import Any, Self


class Clients:
    """A context manager that runs each client in a thread. At its end it sets `_stop`, and clients have to return."""

    JOIN_TIMEOUT = 120.0  # seconds that a client may take to return

    def __init__(self, *clients: Callable[[], Any]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=client, daemon=True) for client in clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self.JOIN_TIMEOUT)
            assert not thread.is_alive(), "a client did not return"
