"""Limits of every request: known methods, a plausible body length, and a maximum time for database calls."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from core import metrics
from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.clients.postgresql.time_limit import request_time_limit
from core.http.error_handlers import in_admin

# Digits of Content-Length. Longer values would overflow or permanently distort django-prometheus' request-size metric.
_MAX_CONTENT_LENGTH_DIGITS = 12


class RequestLimitsMiddleware:
    """Rejects unknown methods and implausible lengths, sets DATABASE_TIMEOUT, and puts Django's 405 in the envelope."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method not in metrics.METHODS:
            return _method_not_allowed(", ".join(sorted(metrics.METHODS)))
        if len(request.META.get("CONTENT_LENGTH", "")) > _MAX_CONTENT_LENGTH_DIGITS:
            return failure_response(ErrorCode.BAD_REQUEST)
        with request_time_limit(settings.DATABASE_TIMEOUT):
            response = self.get_response(request)
        if isinstance(response, HttpResponseNotAllowed) and not in_admin(request):
            return _method_not_allowed(response["Allow"])
        return response


def _method_not_allowed(allow: str) -> HttpResponse:
    return failure_response(ErrorCode.METHOD_NOT_ALLOWED, headers={"Allow": allow})
