"""The outermost middleware: what holds for every answer, whoever gives it."""

import logging
import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from core import metrics
from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.api.exceptions import in_admin
from core.clients.postgresql.time_limit import request_time_limit
from core.trace_id import clear_trace_id, set_trace_id, trace_id_from_headers

log = structlog.stdlib.get_logger("voiceassist.request")
_MOST_DIGITS = 12  # of a body's length: what is longer overflows a metric, or stays in its sum for ever


class RequestMiddleware:
    """Gives the request its trace id, keeps Django's 405 in the envelope, and logs one line.

    A view or middleware that sets `request.quiet_success` is left out of the log when it succeeds.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        given = request.META.get
        trace_id = trace_id_from_headers(given("HTTP_TRACEPARENT", ""), given("HTTP_X_REQUEST_ID", ""))
        set_trace_id(trace_id)
        try:
            response = self._answer(request)
            response["X-Request-ID"] = trace_id
            if not response.streaming:
                response.setdefault("Content-Length", str(len(response.content)))
                if request.method == "HEAD":
                    response.content = b""
            if response.status_code >= 400 or not getattr(request, "quiet_success", False):
                seconds = time.perf_counter() - began
                metrics.observe(request, response, seconds)
                self._log(request, response, seconds)
        finally:
            clear_trace_id()
        return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        if request.method not in metrics.METHODS:
            allow = ", ".join(sorted(metrics.METHODS))
            return failure_response(ErrorCode.METHOD_NOT_ALLOWED, headers={"Allow": allow})
        if len(request.META.get("CONTENT_LENGTH", "")) > _MOST_DIGITS:
            return failure_response(ErrorCode.BAD_REQUEST)
        with request_time_limit(settings.DATABASE_TIMEOUT):
            response = self.get_response(request)
        if isinstance(response, HttpResponseNotAllowed) and not in_admin(request):
            return failure_response(ErrorCode.METHOD_NOT_ALLOWED, headers={"Allow": response["Allow"]})
        return response

    @staticmethod
    def _log(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        match = request.resolver_match
        user = getattr(request, "_cached_user", None)  # looked at only if the request has asked who it is
        log.log(
            logging.ERROR if response.status_code >= 500 else logging.INFO,
            "request",
            method=request.method if request.method in metrics.METHODS else "other",
            route=match.route if match else None,  # never the path: it may tell of a person
            status=response.status_code,
            duration_ms=round(seconds * 1000, 1),
            user_id=str(user.pk) if user is not None and user.pk else None,
            **getattr(request, "outage", {}),  # set by core.api.exceptions
        )
