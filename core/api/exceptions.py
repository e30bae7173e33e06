"""Failures become envelopes here: DRF's exceptions, our own, and what Django itself answers with.

ApiError(code)          raised by our own views
exception_handler       every exception inside a DRF view
outage_response         503 for an outage of a dependency, which is no defect of ours
bad_request, …          Django's handler400, 403, 404, 500 and the CSRF failure: outside of DRF's views
"""

import sys
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template import loader
from django.views import defaults
from rest_framework import exceptions, views
from rest_framework.response import Response

from core.api.envelope import error, failure_response
from core.api.error_codes import ErrorCode
from core.clients.outages import RETRY_AFTER, is_outage, sqlstate


class ApiError(exceptions.APIException):
    """A failure with a code of the table. `details` goes to the client: never anything that may be PHI."""

    def __init__(self, code: ErrorCode, message: str | None = None, *, details: Any = None) -> None:
        super().__init__(message or code.message)
        self.code, self.message, self.details = code, message, details
        self.status_code = code.status


# The first class that fits counts.
_CODES: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (exceptions.NotAuthenticated, ErrorCode.AUTH_REQUIRED),
    (exceptions.AuthenticationFailed, ErrorCode.AUTH_FAILED),
    (exceptions.PermissionDenied, ErrorCode.FORBIDDEN),
    (PermissionDenied, ErrorCode.FORBIDDEN),
    (exceptions.NotFound, ErrorCode.NOT_FOUND),
    (Http404, ErrorCode.NOT_FOUND),
    (exceptions.MethodNotAllowed, ErrorCode.METHOD_NOT_ALLOWED),
    (exceptions.ValidationError, ErrorCode.VALIDATION_ERROR),
    (exceptions.Throttled, ErrorCode.RATE_LIMITED),
    (exceptions.ParseError, ErrorCode.BAD_REQUEST),
    (exceptions.UnsupportedMediaType, ErrorCode.BAD_REQUEST),
)


def exception_handler(raised: Exception, context: dict[str, Any]) -> Response | None:
    """Calls DRF's own first, so that rollback and headers (`Allow`, `Retry-After`) survive, then reshapes.

    Returns None for what DRF doesn't know, an outage included: Django then answers with `server_error`.
    """
    response = views.exception_handler(raised, context)
    if response is None:
        return None
    if isinstance(raised, ApiError):
        code, message, details = raised.code, raised.message, raised.details
    else:
        code = next((c for cls, c in _CODES if isinstance(raised, cls)), ErrorCode.INTERNAL_ERROR)
        message, details = None, None
    if isinstance(raised, exceptions.ValidationError):
        # DRF's messages quote the refused value; its codes don't.
        details = raised.get_codes()
    # DRF answers 403 where there is no way to log in that WWW-Authenticate could name.
    response.status_code = code.status
    response.data = error(code, message, details)
    return response


def in_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith("/admin/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return failure_response(ErrorCode.BAD_REQUEST)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if in_admin(request):
        return defaults.permission_denied(request, exception)
    return failure_response(ErrorCode.FORBIDDEN)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if in_admin(request):
        return defaults.page_not_found(request, exception, template_name="admin/404.html")
    return failure_response(ErrorCode.NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponse:
    raised = sys.exc_info()[1]  # Django calls this while it handles the exception
    if is_outage(raised):
        return outage_response(request, raised)
    if in_admin(request):
        return defaults.server_error(request, template_name="admin/500.html")
    return failure_response(ErrorCode.INTERNAL_ERROR)


def outage_response(request: HttpRequest, raised: BaseException | None) -> HttpResponse:
    """Return 503 with `Retry-After`: a page in the admin, the envelope everywhere else.

    Adds to the request's line in the log which outage it was, without the exception's message, which may quote data.
    """
    request.outage = {"outage": type(raised).__name__, "sqlstate": sqlstate(raised)}  # type: ignore[attr-defined]
    headers = {"Retry-After": RETRY_AFTER}
    if in_admin(request):
        page = loader.render_to_string("admin/503.html")
        return HttpResponse(page, status=ErrorCode.NOT_READY.status, headers=headers)
    message = "A dependency is not available. Try again in a few seconds."
    return failure_response(ErrorCode.NOT_READY, message, headers=headers)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if in_admin(request):
        from django.views.csrf import csrf_failure as page

        return page(request, reason)
    return failure_response(ErrorCode.FORBIDDEN, "The CSRF token is missing or not right.")
