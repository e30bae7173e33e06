"""Gunicorn's threaded worker, with separate threads for probes and error responses that never quote the request.

The server responds to probes even while every other thread waits for a database or a client. Gunicorn assigns a
connection to a thread before the request has arrived, so a few clients that send one byte would hold all threads. Here
a new connection waits in the poller until the head of its request has arrived, which determines the thread pool.

Gunicorn's log line and response for a malformed request quote its path, method or headers, which may contain personal
data. Ours name only the kind of error.
"""

import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from types import FrameType
from typing import Any

import structlog
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException

from core.api.envelope import failure
from core.api.error_codes import ErrorCode
from core.trace_id import clear_trace_id, set_trace_id, trace_id_from_headers
from health.multiprocess import draining
from voiceassist.gunicorn_connections import LimitedWorker

log = structlog.stdlib.get_logger("voiceassist.worker")

_PEEK = 4096  # bytes; the complete head of a probe fits
_END_OF_HEAD = b"\r\n\r\n"
_PROBE = re.compile(rb"(?:GET|HEAD) (?:http://[^/ ]+)?/(health|ready|metrics)/?[ ?]")
_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_DATA_TIMEOUT = 15.0  # seconds without data; browsers open connections that they may never use
_RESTART_INTERVAL = 1.0  # seconds
# Separate pools, because /ready may wait for HEALTH_TIMEOUT and must not delay /health.
_PROBE_THREADS = {b"health": 2, b"ready": 8, b"metrics": 2}


class Worker(LimitedWorker):
    def init_process(self) -> None:
        """Start all threads and serve. If one can't be started, the server ends, unless other workers serve already."""
        try:
            self.request_pool = _started_pool(self.cfg.threads, "request")
            self.probe_pools = {
                name: _started_pool(threads, f"probe-{name.decode()}") for name, threads in _PROBE_THREADS.items()
            }
        except RuntimeError:
            if self.age <= self.cfg.workers:  # one of the first workers
                raise
            time.sleep(_RESTART_INTERVAL)
            sys.exit(1)  # the master starts another worker
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return self.request_pool

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection to a thread as soon as its request has arrived, without the body."""
        start = _first_bytes(conn.sock)
        if not conn.initialized and not self.cfg.is_ssl and (start is None or _await_rest_of_head(conn.sock, start)):
            self._wait_in_poller(conn)
            return
        conn.data_ready = True  # otherwise gunicorn would wait for the data with a selector, which takes a descriptor
        probe = _probe_in(start or b"")
        pool = self.probe_pools[probe] if probe else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _wait_in_poller(self, conn: Any) -> None:
        """Register the connection with the poller, as gunicorn does after 5 seconds without data."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + _DATA_TIMEOUT
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle_request(self, req: Any, conn: Any) -> Any:
        """While draining, make clients open their next connection elsewhere, and record when requests came."""
        if draining.is_draining():
            req.force_close()
            if req.path.strip("/").encode() not in _PROBE_THREADS:
                draining.record_request()
        return super().handle_request(req, conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Also cap connections without a request, which would delay the shutdown. Gunicorn calls this at shutdown."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Exit from the main loop instead of the signal handler.

        Gunicorn shuts the thread pool down and exits here. If the signal interrupts `submit`, whose lock is not
        reentrant, that deadlocks, and the master kills the worker only after `graceful_timeout`.
        """
        self.method_queue.defer(super().handle_quit, sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        trace_id = trace_id_from_headers()
        set_trace_id(trace_id)
        try:
            # An invalid response header is a defect of the application, not a malformed request.
            is_defect = isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName)
            if isinstance(exc, ParseException) and not is_defect:
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


def _started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads all run. A thread that can't be started later would end the worker."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    all_started = threading.Barrier(threads + 1)
    try:
        for _ in range(threads):
            pool.submit(all_started.wait)
        all_started.wait()
    except RuntimeError:
        all_started.abort()  # otherwise the process would wait for the other threads when it exits
        log.error("A thread can't be started. Raise the limit of processes and threads (ulimit -u, TasksMax=).")
        raise
    return pool


def _probe_in(start: bytes) -> bytes:
    """Return the name of the probe, b"" for any other request.

    A request with an incomplete head or with a body is not a probe, because a client that never sends the rest would
    hold a thread of the probes.
    """
    probe = _PROBE.match(start)
    head, end, _ = start.partition(_END_OF_HEAD)
    return probe[1] if probe and end and not _BODY.search(head) else b""


def _first_bytes(sock: socket.socket) -> bytes | None:
    """Return the first bytes without consuming them, None if none have arrived."""
    try:
        return sock.recv(_PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the thread that handles the connection gets the same error and closes it


def _await_rest_of_head(sock: socket.socket, start: bytes) -> bool:
    """Return whether more of the head has to arrive, and make the poller report the socket only when it has.

    A socket that is readable without more bytes has reached its end, or has no low-water mark, like Unix sockets.
    """
    try:
        low_water_mark = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        is_incomplete = low_water_mark <= len(start) < _PEEK and _END_OF_HEAD not in start
        if is_incomplete or low_water_mark > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(start) + 1 if is_incomplete else 1)
    except OSError:
        return False
    return is_incomplete
