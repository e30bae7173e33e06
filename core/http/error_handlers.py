"""Django's error handlers: a page in the admin, the envelope on every other path.

`core.api.exceptions` handles most exceptions of DRF views. Outages and unexpected exceptions are handled here.
"""

import sys
from typing import Any

from django.http import HttpRequest, HttpResponse

from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.clients.outages import RETRY_AFTER, is_outage, sqlstate
from core.http.error_pages import error_page


def in_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith("/admin/")


def page_or_envelope(
    request: HttpRequest,
    error: str,
    code: ErrorCode,
    message: str | None = None,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
    **context: Any,
) -> HttpResponse:
    """Return the page `error` of ERRORS in the admin, and the envelope with the code and the message elsewhere."""
    if in_admin(request):
        return error_page(request, error, status or code.status, headers=headers, **context)
    return failure_response(code, message, status=status, headers=headers)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return page_or_envelope(request, "bad_request", ErrorCode.BAD_REQUEST)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return page_or_envelope(request, "forbidden", ErrorCode.FORBIDDEN)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return page_or_envelope(request, "not_found", ErrorCode.NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponse:
    # Undocumented: Django calls this handler inside its `except` block.
    exception = sys.exc_info()[1]
    if is_outage(exception):
        return outage_response(request, exception)
    return page_or_envelope(request, "server_error", ErrorCode.INTERNAL_ERROR)


def outage_response(request: HttpRequest, exception: BaseException | None) -> HttpResponse:
    """Return 503 with `Retry-After`.

    The request's log line gets the type of the exception and its SQLSTATE, but not its message, which may quote PHI.
    """
    request.outage = {"outage": type(exception).__name__, "sqlstate": sqlstate(exception)}  # type: ignore[attr-defined]
    message = "A dependency is unavailable. Retry in a few seconds."
    return page_or_envelope(request, "outage", ErrorCode.NOT_READY, message, headers={"Retry-After": RETRY_AFTER})


def too_many_requests(request: HttpRequest, message: str, retry_after: str) -> HttpResponse:
    """Return 429 with `Retry-After` in seconds. Both the page and the envelope contain the message."""
    code, headers = ErrorCode.RATE_LIMITED, {"Retry-After": retry_after}
    return page_or_envelope(request, "too_many_requests", code, message, headers=headers, explanation=message)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    message = "CSRF token missing or invalid. Reload the page and try again."
    return page_or_envelope(request, "csrf", ErrorCode.FORBIDDEN, message)
