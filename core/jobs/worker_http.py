"""The worker's `/health` and `/metrics`, for probes and Prometheus."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from django.conf import settings
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from core.http import metrics_token

log = structlog.stdlib.get_logger("voiceassist.jobs")

# Seconds since the last round of the housekeeping thread, beside DATABASE_TIMEOUT. A round of an outage takes a few
# seconds and at most one DATABASE_TIMEOUT, so /health does not fail because a dependency does.
_MAX_AGE = 60.0


class _Server(ThreadingWSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a bug only. The standard library writes a traceback also if a client disconnects or is silent."""
        if not isinstance(sys.exception(), OSError):
            log.error("a request to the worker failed", exc_info=True)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds for receiving a request

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, because probes and scrapes would fill the log."""


def serve(host: str, port: int, last_round: Callable[[], float]) -> None:
    """Serve in a background thread. `last_round` returns the monotonic time of the housekeeping thread's last round.

    Raises OSError if the address can't be used.
    """
    metrics = make_wsgi_app()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _respond(start_response, "405 Method Not Allowed")
        if path == "/health":
            is_alive = time.monotonic() - last_round() < _MAX_AGE + settings.DATABASE_TIMEOUT
            return _respond(start_response, "200 OK" if is_alive else "503 Service Unavailable")
        if path != "/metrics":
            return _respond(start_response, "404 Not Found")
        if settings.METRICS_TOKEN and not metrics_token.is_valid(environ.get("HTTP_AUTHORIZATION", "")):
            return _respond(start_response, "401 Unauthorized")
        return metrics(environ, start_response)  # type: ignore[no-any-return]

    server = make_server(host, port, app, _IPv6Server if ":" in host else _Server, _Handler)
    threading.Thread(target=server.serve_forever, name="worker-http", daemon=True).start()


def _respond(start_response: Callable[..., Any], status: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Cache-Control", "no-store")])
    return [f"{status}\n".encode()]
