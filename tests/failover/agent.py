"""Imitate Patroni's REST API, which load balancers use to find the primary."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.failover.cluster import Cluster, Node


class Agent:
    """`GET /primary` returns 200 on the primary and 503 elsewhere. The agent of a frozen node does not respond."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        stopped = self._stopped = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                while node.is_frozen and not stopped.is_set():
                    time.sleep(0.02)
                is_primary = self.path == "/primary" and node is cluster.primary and node.is_running
                self.send_response(200 if is_primary else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing, because HAProxy sends a check every second."""

        class Listener(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Ignore errors, which occur when HAProxy has closed the check of a frozen node."""

        self._server = Listener((node.address, node.agent_port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Agent":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
