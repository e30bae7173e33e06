"""A fake Qdrant server with a REST API that can simulate every kind of fault.

It implements what the application and its backups use: probes, API keys, collections and their snapshots. It stores no
points.
"""

import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.support.polling import succeeds_within

VERSION = "1.20.0"
PUBLIC_PATHS = {"/", "/healthz", "/livez", "/readyz"}  # no API key required


class Handler(BaseHTTPRequestHandler):
    server: "QdrantServer"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the body, sent after the headers, waits for an acknowledgement

    def log_message(self, *args: object) -> None: ...

    def setup(self) -> None:
        super().setup()
        self.server.open_connections.add(self.connection)

    def finish(self) -> None:
        self.server.open_connections.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.paths.append(self.path)
        self.server.traceparents += filter(None, [self.headers.get("traceparent")])
        self.server.header_names |= {name.lower() for name in self.headers}
        fault = FAULTS.get(self.server.fault)
        try:
            if fault:
                fault(self)
            elif (error := self._authorization_error()) is not None:
                self.send(*error)
            else:
                self._route(json.loads(body or "null"))
        except OSError:  # the client has disconnected
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815  # names that http.server calls

    def _path(self) -> str:
        """Return the path without the prefix, which a proxy in front of Qdrant would remove."""
        return self.path.split("?")[0].removeprefix(self.server.prefix)

    def _authorization_error(self) -> tuple[int, str] | None:
        path = self._path()
        if path in PUBLIC_PATHS or not self.server.api_key:
            return None
        api_key = self.headers.get("api-key") or (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not api_key:
            return 401, "Must provide an API key or an Authorization bearer token"
        if api_key == self.server.read_only_key and self.command in ("PUT", "DELETE"):
            return 403, "Forbidden: the API key allows reading only"
        return None if api_key in (self.server.api_key, self.server.read_only_key) else (401, "Invalid API key or JWT")

    def _route(self, body: Any) -> None:
        path = self._path()
        if path == "/":
            self.send(200, {"title": "qdrant - vector search engine", "version": VERSION, "commit": "0" * 40})
        elif path == "/readyz":
            ready = self.server.shards_ready
            self.send(200 if ready else 503, "all shards are ready" if ready else "some shards are not ready")
        elif path in PUBLIC_PATHS:
            self.send(200, f"{path[1:]} check passed")
        elif path == "/collections":
            names = [{"name": name} for name in self.server.collections]
            self.send(200, {"result": {"collections": names}, "status": "ok", "time": 1e-6})
        elif path.startswith("/collections/") and "/snapshots" in path:
            self._snapshot(*path.split("/")[2:])
        elif path.startswith("/collections/") and path.count("/") == 2:
            self._collection(path.split("/")[2], body)
        else:
            self.send(404, {"status": {"error": "Not found"}, "time": 0.0})

    def _collection(self, name: str, body: Any) -> None:
        collections = self.server.collections
        if self.command == "PUT":
            collections[name] = body
        elif name not in collections:
            self.send(404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}, "time": 0.0})
            return
        elif self.command == "DELETE":
            del collections[name]
        self.send(200, {"result": True, "status": "ok", "time": 1e-6})

    def _snapshot(self, collection: str, _: str, snapshot: str = "") -> None:
        """Create, send or delete a snapshot, whose content is the name of its collection."""
        collection, snapshots = unquote(collection), self.server.snapshots
        content = f"snapshot of {collection}"
        if self.command == "POST":
            name = f"{collection}-{len(snapshots)}.snapshot"
            snapshots.append(name)
            checksum = hashlib.sha256(content.encode()).hexdigest()
            result = {"name": name, "creation_time": None, "size": len(content), "checksum": checksum}
            self.send(200, {"result": result, "status": "ok", "time": 1e-6})
        elif unquote(snapshot) not in snapshots:
            self.send(404, {"status": {"error": "Not found: Snapshot"}, "time": 0.0})
        elif self.command == "DELETE":
            snapshots.remove(unquote(snapshot))
            self.send(200, {"result": True, "status": "ok", "time": 1e-6})
        else:
            self.send(200, content, content_type="application/octet-stream")

    def send(self, status: int, content: Any, *, content_type: str = "text/plain", length: int | None = None) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def endless(self, pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        while not self.server.stopping.wait(pause):
            self.wfile.write(b" " * (1 if pause else 65536))
        self.close_connection = True

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def truncated(self) -> None:
        self.send(200, '{"result": ', length=1000)
        self.close_connection = True

    def silence(self) -> None:
        self.server.stopping.wait(60)
        self.close_connection = True

    def raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.close_connection = True


FAULTS: dict[str | None, Callable[[Handler], None]] = {
    "403": lambda h: h.send(403, "Forbidden"),
    "500": lambda h: h.send(500, {"status": {"error": "Service internal error"}, "time": 0.0}),
    "503": lambda h: h.send(503, "upstream connect error"),
    "502 html": lambda h: h.send(502, "<html><h1>Bad Gateway</h1></html>", content_type="text/html"),
    "html": lambda h: h.send(200, "<html><h1>Please log in</h1></html>", content_type="text/html"),
    "text": lambda h: h.send(200, "hello"),
    "wrong shape": lambda h: h.send(200, {"result": [1, 2, 3]}),
    "no collections": lambda h: h.send(200, {"result": {}}),
    "list": lambda h: h.send(200, [1, 2, 3]),
    "not utf-8": lambda h: h.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n\xff\xfe\xfd"),
    "redirect": lambda h: h.raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "garbage": lambda h: h.raw(bytes(range(256))),
    "truncated": Handler.truncated,
    "reset": Handler.reset,
    "closed": lambda h: h.raw(b""),
    "silence": Handler.silence,
    "endless": lambda h: h.endless(0.0),
    "trickle": lambda h: h.endless(0.2),
}


class QdrantServer(ThreadingHTTPServer):
    """A context manager. `fault` is None or a key of FAULTS and can be changed at any time."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, *, api_key: str = "", read_only_key: str = "", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.api_key, self.read_only_key = api_key, read_only_key
        self.port = self.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.prefix = ""
        self.fault: str | None = None
        self.shards_ready = True
        self.collections: dict[str, Any] = {}
        self.snapshots: list[str] = []  # names of those that were not deleted
        self.paths: list[str] = []  # of all requests
        self.traceparents: list[str] = []  # of the requests that had the header
        self.header_names: set[str] = set()  # of all requests, in lower case
        self.open_connections: set[socket.socket] = set()
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="qdrant", daemon=True)

    def handle_error(self, *args: object) -> None:
        """Ignore clients that disconnect."""

    def __enter__(self) -> "QdrantServer":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.open_connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join(5)
        assert succeeds_within(20, lambda: not self.open_connections, interval=0.01)
