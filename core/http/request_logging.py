"""The outermost middleware: the trace id, one log line and one metric for every request."""

import logging
import time
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse

from core import metrics
from core.trace_id import clear_trace_id, set_trace_id, trace_id_from_headers

log = structlog.stdlib.get_logger("voiceassist.request")

# Like 1xx, these have no Content-Length: https://www.rfc-editor.org/rfc/rfc9110#section-8.6
_STATUSES_WITHOUT_CONTENT = (204, 304)


class RequestLoggingMiddleware:
    """Sets the trace id, completes the response's headers, and logs and measures the request.

    A successful request with the attribute `quiet_success` is neither logged nor measured.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started_at = time.perf_counter()
        traceparent = request.META.get("HTTP_TRACEPARENT", "")
        trace_id = trace_id_from_headers(traceparent, request.META.get("HTTP_X_REQUEST_ID", ""))
        set_trace_id(trace_id, traceparent)
        try:
            response = self.get_response(request)
            response["X-Request-ID"] = trace_id
            _set_content_length(request, response)
            if response.status_code >= 400 or not getattr(request, "quiet_success", False):
                seconds = time.perf_counter() - started_at
                metrics.observe(request, response, seconds)
                self._log(request, response, seconds)
        finally:
            clear_trace_id()
        return response

    @staticmethod
    def _log(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        match = request.resolver_match
        # Private: the cache of `request.user`. Reading `request.user` here would query the session of every request.
        user = getattr(request, "_cached_user", None)
        log.log(
            logging.ERROR if response.status_code >= 500 else logging.INFO,
            "request",
            method=request.method if request.method in metrics.METHODS else "other",
            route=match.route if match else None,  # never the path, which may contain PHI
            status=response.status_code,
            duration_ms=round(seconds * 1000, 1),
            user_id=str(user.pk) if user is not None and user.pk else None,
            **getattr(request, "outage", {}),  # set by core.http.error_handlers
        )


def _set_content_length(request: HttpRequest, response: HttpResponse) -> None:
    """Set or remove Content-Length, and remove content that the status or the method does not allow."""
    if response.status_code in _STATUSES_WITHOUT_CONTENT or response.status_code < 200:
        del response["Content-Length"]
        setattr(response, "streaming_content" if response.streaming else "content", b"")
    elif not response.streaming:
        response.setdefault("Content-Length", str(len(response.content)))
        if request.method == "HEAD":
            response.content = b""
