"""Gunicorn's threaded worker, but for what it says of a request that it can't read.

Its own log line and its own page quote the header, the path or the method that was wrong. Ours name the kind.
"""

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import structlog
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException
from gunicorn.workers.gthread import ThreadWorker

from core import trace
from core.codes import ErrorCode
from core.envelope import failure

log = structlog.stdlib.get_logger("voiceassist.worker")


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        trace_id = trace.from_headers()
        trace.begin(trace_id)
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
            trace.end()
        with suppress(OSError):
            client.sendall(
                b"HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\nX-Request-ID: %s\r\n\r\n%s"
                % (code.status, HTTPStatus(code.status).phrase.encode(), len(body), trace_id.encode(), body)
            )
