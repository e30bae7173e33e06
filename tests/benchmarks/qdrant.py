"""A server with Qdrant's responses to the readiness check: `python -m tests.benchmarks.qdrant` prints its port.

It does little for a request, like the real server. The one of the tests, which parses requests in Python, would take a
tenth of the processor time that is measured.
"""

import json
import socket
import threading

from tests.support.tcp_server import TcpServer


def _response(content_type: str, body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


_RESPONSES = {
    b"/readyz": _response("text/plain", "all shards are ready"),
    b"/collections": _response("application/json", json.dumps({"result": {"collections": []}, "status": "ok"})),
    b"/": _response("application/json", json.dumps({"title": "qdrant - vector search engine", "version": "1.20.0"})),
}


class Server(TcpServer):
    def serve(self, client: socket.socket) -> None:
        while data := client.recv(65536):
            client.sendall(_RESPONSES[data.split(b" ", 2)[1]])


if __name__ == "__main__":
    with Server() as server:
        print(server.port, flush=True)
        threading.Event().wait()
