"""Gunicorn's threaded worker, with threads for probes and our own answer to a request that can't be read.

Probes have threads of their own, so that they are answered while every other thread waits for a database or a client.
Gunicorn gives a connection to a thread before it knows what is asked; here the connection waits in the poller until its
first bytes are there, and these decide which threads get it.

Gunicorn's own log line and page about a malformed request quote the header, the path or the method that was wrong. Ours
name the kind.
"""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any

import structlog
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException
from gunicorn.workers.gthread import ThreadWorker

from core.api.envelope import failure
from core.api.error_codes import ErrorCode
from core.trace_id import clear_trace_id, set_trace_id, trace_id_from_headers

log = structlog.stdlib.get_logger("voiceassist.worker")

_PEEK = 4096  # bytes; a probe's whole head fits
_PROBE = re.compile(rb"(?:GET|HEAD) (?:http://[^/ ]+)?/(health|ready|metrics)/?[ ?]")
_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_FIRST_BYTES_TIMEOUT = 15.0  # seconds; browsers open connections that they may never use
# Liveness never waits for anything, readiness for as long as HEALTH_TIMEOUT; a slow /ready must not hold up /health.
# Threads are started when they are needed.
_PROBE_THREADS = {b"health": 2, b"ready": 8, b"metrics": 2}


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def init_process(self) -> None:
        self.probe_pools = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"probe-{name.decode()}")
            for name, threads in _PROBE_THREADS.items()
        }
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread as soon as its request has begun to arrive."""
        start = _first_bytes(conn.sock)
        if start is None and not conn.initialized:
            self._wait_in_poller(conn)
            return
        probe = _probe_in(start or b"")
        pool = self.probe_pools[probe] if probe else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _wait_in_poller(self, conn: Any) -> None:
        """Do at once what gunicorn does with a connection from which nothing has come for 5 seconds."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + _FIRST_BYTES_TIMEOUT
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _cap_keepalive(self, deadline: float) -> None:
        """Called when the worker stops: connections from which nothing has come need not be waited for longer."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        trace_id = trace_id_from_headers()
        set_trace_id(trace_id)
        try:
            # A header that the application sets is of its own making.
            ours = isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName)
            if isinstance(exc, ParseException) and not ours:
                code = ErrorCode.BAD_REQUEST
                log.warning("malformed request", error=type(exc).__name__)
            else:
                code = ErrorCode.INTERNAL_ERROR
                log.error("unhandled exception", exc_info=exc)
            body = json.dumps(failure(code)).encode()
        finally:
            clear_trace_id()
        with suppress(OSError):
            client.sendall(
                b"HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\nX-Request-ID: %s\r\n\r\n%s"
                % (code.status, HTTPStatus(code.status).phrase.encode(), len(body), trace_id.encode(), body)
            )


def _probe_in(start: bytes) -> bytes:
    """Return which probe a request is, b"" for any other.

    Its head has to be complete, and it may announce no body: a client that lets us wait for the rest of its request
    would hold up the probes behind it.
    """
    probe = _PROBE.match(start)
    head, end, _ = start.partition(b"\r\n\r\n")
    return probe[1] if probe and end and not _BODY.search(head) else b""


def _first_bytes(sock: socket.socket) -> bytes | None:
    """Return the first bytes that have arrived and leave them there; None if there are none yet."""
    try:
        return sock.recv(_PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the thread that gets it will meet the same error and close it
