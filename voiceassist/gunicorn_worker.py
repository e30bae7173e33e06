"""Gunicorn's threaded worker, with threads for probes and static files, and errors that never quote the request.

The server responds to probes even while every other thread waits for a database. The path of a request determines the
thread pool, so this relies on requests being received before they are given to a thread, see gunicorn_requests.py.

The main thread itself responds to `/health` and `/ready`, which is faster than handing them to threads. If there is no
fresh report, the requests for `/ready` wait without threads, while one thread runs the checks for all of them.

Gunicorn's log line and response for a malformed request quote its path, method or headers, which may contain personal
data. Ours name only the kind of error.
"""

import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from types import FrameType
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException

from core.api.envelope import failure
from core.api.error_codes import ErrorCode
from core.http.security_headers import WORKER_HEADERS
from core.trace_id import clear_trace_id, set_trace_id, trace_id_from_headers
from health.multiprocess import draining
from voiceassist import settings
from voiceassist.gunicorn_requests import BufferingWorker

log = structlog.stdlib.get_logger("voiceassist.worker")

_PROBES = ("health", "ready", "metrics")
_PROBE = re.compile(rb"(?:GET|HEAD) (?:http://[^/ ]+)?/(%s)/?[ ?]" % "|".join(_PROBES).encode())
_HEADERS = "".join(f"{name}: {value}\r\n" for name, value in WORKER_HEADERS.items()).encode()
_RESTART_INTERVAL = 1.0  # seconds
_SHORT_RESPONSE_TIMEOUT = 2.0  # seconds; probes and errors fit into the socket's buffer, unless nobody reads them
_METRICS_THREADS = 2
_PATH = re.compile(rb"\w+ (?:http://[^/ ]+)?(/[^ ?]*)")
_STATIC_PREFIX = f"/{settings.STATIC_URL.strip('/')}/".encode()
# Only static files are larger than the socket's buffer, so a client that reads slowly holds a thread of this pool.
_STATIC_THREADS = 2


class Worker(BufferingWorker):
    def init_process(self) -> None:
        """Start all threads and serve. If one can't be started, the server ends, unless other workers serve already."""
        try:
            self.request_pool = _started_pool(self.cfg.threads, "request")
            self.readiness_pool = _started_pool(1, "readiness")
            self.metrics_pool = _started_pool(_METRICS_THREADS, "metrics")
            self.static_pool = _started_pool(_STATIC_THREADS, "static")
        except RuntimeError:
            if self.age <= self.cfg.workers:  # one of the first workers
                raise
            time.sleep(_RESTART_INTERVAL)
            sys.exit(1)  # the master starts another worker
        from health import readiness  # uses Django's settings

        self.readiness = readiness.runner()
        self.waiting_probes: list[tuple[float, Any]] = []  # time.monotonic() of the arrival, and the connection
        self.is_checking = False
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return self.request_pool

    def pool_for(self, conn: Any) -> ThreadPoolExecutor | None:
        request = conn.request
        if not request or request.has_body:
            return self.request_pool
        if probe := _PROBE.match(request.head):
            if probe[1] == b"metrics":
                return self.metrics_pool
            return None if probe[1] == b"health" or self.readiness.has_fresh_report else self.readiness_pool
        path = _PATH.match(request.head)
        return self.static_pool if path and unquote_to_bytes(path[1]).startswith(_STATIC_PREFIX) else self.request_pool

    def submit(self, conn: Any, pool: ThreadPoolExecutor) -> None:
        """Let a request for `/ready` wait until the thread of the readiness pool has run the checks."""
        if pool is not self.readiness_pool:
            super().submit(conn, pool)
            return
        self.waiting_probes.append((time.monotonic(), conn))
        if not self.is_checking:
            self._check()

    def _check(self) -> None:
        self.is_checking = True
        future = self.readiness_pool.submit(self.readiness.report)
        future.add_done_callback(lambda done: self.method_queue.defer(self._respond_to_probes, done))

    def _respond_to_probes(self, done: Any) -> None:
        """Respond to the probes that came before the checks had finished, and check again for later ones."""
        self.is_checking = False
        waiting, self.waiting_probes = self.waiting_probes, []
        for arrived_at, conn in waiting:
            if done.exception():
                super().submit(conn, self.request_pool)  # whose thread runs the checks again, and logs the exception
            elif arrived_at <= done.result().finished_at + self.readiness.max_age:
                with self.readiness.reusing_latest():
                    self.respond(conn)
            else:
                self.submit(conn, self.readiness_pool)

    def response_timeout(self, req: Any) -> float:
        return _short_timeout() if _is_probe(req) else super().response_timeout(req)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """While draining, make clients open their next connection elsewhere, and record when requests came."""
        if draining.is_draining():
            req.force_close()
            if not _is_probe(req):
                draining.record_request()
        return super().handle_request(req, conn)

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
            client.settimeout(_short_timeout())
            client.sendall(
                b"HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\nX-Request-ID: %s\r\n%s\r\n%s"
                % (code.status, HTTPStatus(code.status).phrase.encode(), len(body), trace_id.encode(), _HEADERS, body)
            )


def _is_probe(req: Any) -> bool:
    return req.path.strip("/") in _PROBES


def _short_timeout() -> float:
    """Return the time that a probe or an error may take. The main thread never waits for a client."""
    return 0.0 if threading.current_thread() is threading.main_thread() else _SHORT_RESPONSE_TIMEOUT


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
