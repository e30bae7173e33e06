"""Limits of every request: known methods, the length of the body, and a maximum time for database calls.

A view that needs longer bodies gets a limit of its own in `_is_too_large`, by its path, and a rule in the load
balancer's configuration. A thread then reads such a body at its client's pace, so the view must not be for everybody.
"""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from core import metrics
from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.clients.postgresql.time_limit import request_time_limit
from core.http.error_handlers import page_or_envelope

_CONTENT_TOO_LARGE = 413


class RequestLimitsMiddleware:
    """Rejects unknown methods and too large bodies, sets DATABASE_TIMEOUT, and replaces Django's empty 405."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method not in metrics.METHODS:
            headers = {"Allow": ", ".join(sorted(metrics.METHODS))}
            return failure_response(ErrorCode.METHOD_NOT_ALLOWED, headers=headers)
        if _is_too_large(request):
            message = "The request body is too large. Send at most 100 kB."
            return page_or_envelope(request, "too_large", ErrorCode.BAD_REQUEST, message, status=_CONTENT_TOO_LARGE)
        with request_time_limit(settings.DATABASE_TIMEOUT):
            response = self.get_response(request)
        if isinstance(response, HttpResponseNotAllowed):
            headers = {"Allow": response["Allow"]}
            return page_or_envelope(request, "method_not_allowed", ErrorCode.METHOD_NOT_ALLOWED, headers=headers)
        return response


def _is_too_large(request: HttpRequest) -> bool:
    # The server refuses values that are not numbers.
    return int(request.META.get("CONTENT_LENGTH") or 0) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE
