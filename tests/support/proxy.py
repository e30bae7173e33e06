"""A TCP proxy that breaks connections as networks and servers do. Its mode can be changed at any time."""

import socket
import ssl
import struct
import threading
import time
from contextlib import suppress

_NONSENSE = {
    "garbage": bytes(range(255, 127, -1)) + b"\r\n\r\n",
    "html": b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Oh no</html>\r\n",
}

MODES = {
    "pass": "what comes is passed on",
    "refuse": "nobody listens, and what was open is closed",
    "silent": "connections are made, but nothing comes through any more, on open ones neither",
    "reset": "connections are reset, open ones too",
    "close": "connections are closed at once, open ones too",
    "truncate": "the server's answer ends after `truncate_after` bytes",
    "delay": "each piece is passed on `delay` seconds late",
    "garbage": "bytes that are no protocol's",
    "html": "an HTTP proxy's page",
}


class Proxy:
    """Listens on a free loopback port and passes on to `target`'s port on loopback."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.5
        self.truncate_after = 3
        self._mode = "pass"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.accepted = self.swallowed = 0  # connections, bytes
        self.port = 0
        self._listen()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES
        before, self._mode = self._mode, mode
        if before == "refuse" and mode != "refuse":
            self._listen()
        if mode == "refuse":
            self._hush()
        if mode in ("refuse", "reset", "close"):
            self._break_open(reset=mode == "reset")

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True)
        self._thread.start()

    def _hush(self) -> None:
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
        mode = self.mode  # as it is now: it can change while we wait
        with self._lock:
            self._open |= {client, server}
        try:
            if mode in ("reset", "close"):
                _end(client, reset=mode == "reset")
            elif mode in _NONSENSE:
                client.recv(65536)
                client.sendall(_NONSENSE[mode])
                while client.recv(65536):  # what is unread at the close would become a reset
                    pass
            else:
                server.connect(("127.0.0.1", self.target))
                back = threading.Thread(target=self._pump, args=(server, client, True), name="proxy", daemon=True)
                back.start()
                self._pump(client, server, False)
                back.join()
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {client, server}
            client.close()
            server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, answer: bool) -> None:
        """Passes on one direction. What was swallowed never comes through later."""
        try:
            while data := source.recv(65536):
                mode = self.mode
                if mode == "silent":
                    self.swallowed += len(data)
                    continue
                if mode in _NONSENSE and answer:
                    data = _NONSENSE[mode]
                if mode == "delay":
                    time.sleep(self.delay)
                if mode == "truncate" and answer:
                    sink.sendall(data[: self.truncate_after])
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _end(source)
            _end(sink)

    def _break_open(self, *, reset: bool) -> None:
        with self._lock:
            for connection in self._open:
                _end(connection, reset=reset)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *args: object) -> None:
        if self.mode != "refuse":
            self._hush()
        self._break_open(reset=True)
        end = time.monotonic() + 5
        while self.open_connections and time.monotonic() < end:
            time.sleep(0.01)


def _end(connection: socket.socket, *, reset: bool = False) -> None:
    with suppress(OSError):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class TlsFront:
    """Speaks TLS with clients and passes on in plain: the wheels' servers are built without TLS.

    With `postgres` it first answers PostgreSQL's question for TLS, which is asked in plain. With `or_plain` it passes
    on what does not begin with a TLS handshake, because the wheels' own connections to each other are plain.
    """

    def __init__(self, target: int, context: ssl.SSLContext, *, postgres: bool = False, or_plain: bool = False) -> None:
        self._target, self._context, self._postgres, self._or_plain = target, context, postgres, or_plain
        self.secured = 0  # connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="tls", daemon=True)

    def __enter__(self) -> "TlsFront":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        _end(self._listener)  # wakes accept()
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="tls", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            if self._postgres:
                client.recv(8)
                client.sendall(b"S")
            if self._or_plain and client.recv(1, socket.MSG_PEEK) != b"\x16":
                _relay(client, server)
                return
            with self._context.wrap_socket(client, server_side=True) as secure:
                self.secured += 1
                _relay(secure, server)


def _relay(client: socket.socket, server: socket.socket) -> None:
    client.settimeout(0.01)
    server.settimeout(0.01)
    while True:
        for source, sink in ((client, server), (server, client)):
            with suppress(TimeoutError):
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)
