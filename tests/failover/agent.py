"""Answers what Patroni's REST API answers to the checks of a load balancer, for the nodes of the cluster."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.failover.cluster import Cluster, Node


class Agent:
    """`GET /primary` is 200 on the leader and 503 elsewhere. The agent of a frozen machine does not answer."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        ended = self._ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                while node.frozen and not ended.is_set():
                    time.sleep(0.02)
                leads = self.path == "/primary" and node is cluster.primary and node.running
                self.send_response(200 if leads else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """HAProxy asks every second; nobody reads that."""

        class Listener(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Is called where HAProxy has given up the check of a machine that was frozen."""

        self._server = Listener((node.address, node.agent_port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Agent":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
