"""TCP proxies for tests: one that simulates network faults, and one that adds TLS."""

import re
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress

from tests.support.polling import succeeds_within
from tests.support.tcp_server import TcpServer

_INVALID_RESPONSES = {
    "garbage": bytes(range(255, 127, -1)) + b"\r\n\r\n",
    "html": b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Oh no</html>\r\n",
}

MODES = {
    "pass": "forwards all data",
    "refuse": "stops listening and closes open connections",
    "silent": "accepts connections, but discards all data, also on open connections",
    "reset": "resets new and open connections",
    "close": "closes new and open connections",
    "truncate": "closes the connection after `truncate_after` bytes of the response",
    "delay": "forwards all data `delay` seconds late",
    "garbage": "sends bytes that belong to no protocol",
    "html": "sends the error page of an HTTP proxy",
}


class Proxy:
    """Listens on a free loopback port and forwards to the loopback port `target`. `mode` can be changed at any time."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.5
        self.truncate_after = 3
        self.forbidden = b""  # a regular expression; a request that matches it closes the connection
        self.hidden = b""  # a regular expression; what matches it in a response is overwritten with "x"
        self._mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self.accepted = self.discarded = 0  # connections, bytes
        self.port = 0
        self._listen()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES
        previous, self._mode = self._mode, mode
        if previous == "refuse" and mode != "refuse":
            self._listen()
        if mode == "refuse":
            self._stop_listening()
        if mode in ("refuse", "reset", "close"):
            self._break_connections(reset=mode == "reset")

    def forget_connections(self) -> None:
        """Discard all data of the open connections from now on, as a firewall that has restarted. New ones work."""
        with self._lock:
            self._forgotten |= self._open

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True)
        self._thread.start()

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join(5)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client,), name="proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket()
        mode = self.mode  # read once, because it can change during this function
        with self._lock:
            self._open |= {client, server}
        try:
            if mode in ("reset", "close"):
                _shut_down(client, reset=mode == "reset")
            elif mode in _INVALID_RESPONSES:
                client.recv(65536)
                client.sendall(_INVALID_RESPONSES[mode])
                while client.recv(65536):  # closing with unread data would reset the connection
                    pass
            else:
                server.connect(("127.0.0.1", self.target))
                responses = threading.Thread(target=self._pump, args=(server, client, True), name="proxy", daemon=True)
                responses.start()
                self._pump(client, server, False)
                responses.join()
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, is_response: bool) -> None:
        """Forward one direction. Data that was discarded is never sent later."""
        try:
            while data := source.recv(65536):
                mode = self.mode
                if mode == "silent" or source in self._forgotten:
                    self.discarded += len(data)
                    continue
                if self.forbidden and not is_response and re.search(self.forbidden, data):
                    break
                if self.hidden and is_response:
                    data = re.sub(self.hidden, lambda match: b"x" * len(match[0]), data)
                if mode in _INVALID_RESPONSES and is_response:
                    data = _INVALID_RESPONSES[mode]
                if mode == "delay":
                    time.sleep(self.delay)
                if mode == "truncate" and is_response:
                    sink.sendall(data[: self.truncate_after])
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _shut_down(source)
            _shut_down(sink)

    def _break_connections(self, *, reset: bool) -> None:
        with self._lock:
            for connection in self._open:
                _shut_down(connection, reset=reset)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *args: object) -> None:
        if self.mode != "refuse":
            self._stop_listening()
        assert succeeds_within(5, self._has_closed_connections, interval=0.01), self._open

    def _has_closed_connections(self) -> bool:
        """Return whether no connection is open, after closing those that a thread has opened meanwhile."""
        self._break_connections(reset=True)
        return not self.open_connections


def _shut_down(connection: socket.socket, *, reset: bool = False) -> None:
    with suppress(OSError):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class TlsProxy(TcpServer):
    """Terminates TLS, because the servers in the wheels are built without it.

    With `postgres` it first accepts PostgreSQL's SSLRequest. With `allow_plain` it also forwards connections without
    a TLS handshake, because the servers connect to each other without TLS.
    """

    def __init__(
        self, target: int, context: ssl.SSLContext, *, postgres: bool = False, allow_plain: bool = False
    ) -> None:
        self._target, self._context, self._postgres, self._allow_plain = target, context, postgres, allow_plain
        self.tls_connections = 0
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            if self._postgres:
                client.recv(8)
                client.sendall(b"S")
            if self._allow_plain and client.recv(1, socket.MSG_PEEK) != b"\x16":
                relay(client, server)
                return
            with self._context.wrap_socket(client, server_side=True) as secure:
                self.tls_connections += 1
                relay(secure, server)


def relay(client: socket.socket, server: socket.socket) -> None:
    """Forward data in both directions until one side closes its connection."""
    client.settimeout(0.01)
    server.settimeout(0.01)
    while True:
        for source, sink in ((client, server), (server, client)):
            with suppress(TimeoutError):
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)
