"""A TCP server that sends a fixed reply to each command of Redis' protocol, or to each HTTP request."""

import socket
import time

from tests.support.tcp_server import TcpServer

DRIP_INTERVAL = 0.1  # seconds


class FixedReplyServer(TcpServer):
    """A context manager. After the first reply it sends `drip` again and again, until the client disconnects."""

    def __init__(self, reply: bytes, *, drip: bytes = b"") -> None:
        self._reply, self._drip = reply, drip
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        while data := client.recv(65536):
            commands = data.count(b"\r\n*") + 1
            client.sendall(self._reply * commands)
            while self._drip:
                time.sleep(DRIP_INTERVAL)
                client.sendall(self._drip)
