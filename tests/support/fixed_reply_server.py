"""A TCP server that sends a fixed reply to each command of Redis' protocol, or to each HTTP request."""

import socket
import threading
import time
from contextlib import suppress

DRIP_INTERVAL = 0.1  # seconds


class FixedReplyServer:
    """A context manager. After the first reply it sends `drip` again and again, until the client disconnects."""

    def __init__(self, reply: bytes, *, drip: bytes = b"") -> None:
        self._reply, self._drip = reply, drip
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="fixed-reply", daemon=True)

    def __enter__(self) -> "FixedReplyServer":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="fixed-reply", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := client.recv(65536):
                commands = data.count(b"\r\n*") + 1
                client.sendall(self._reply * commands)
                while self._drip:
                    time.sleep(DRIP_INTERVAL)
                    client.sendall(self._drip)
