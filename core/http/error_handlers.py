"""Django's error handlers: a page in the admin, the envelope on every other path.

`core.api.exceptions` handles most exceptions of DRF views. Outages and unexpected exceptions are handled here.
"""

import sys

from django.http import HttpRequest, HttpResponse

from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.clients.outages import RETRY_AFTER, is_outage, sqlstate
from core.http.error_pages import error_page


def in_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith("/admin/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if in_admin(request):
        return error_page(request, "bad_request", ErrorCode.BAD_REQUEST.status)
    return failure_response(ErrorCode.BAD_REQUEST)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if in_admin(request):
        return error_page(request, "forbidden", ErrorCode.FORBIDDEN.status)
    return failure_response(ErrorCode.FORBIDDEN)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if in_admin(request):
        return error_page(request, "not_found", ErrorCode.NOT_FOUND.status)
    return failure_response(ErrorCode.NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponse:
    # Undocumented: Django calls this handler inside its `except` block.
    exception = sys.exc_info()[1]
    if is_outage(exception):
        return outage_response(request, exception)
    if in_admin(request):
        return error_page(request, "server_error", ErrorCode.INTERNAL_ERROR.status)
    return failure_response(ErrorCode.INTERNAL_ERROR)


def outage_response(request: HttpRequest, exception: BaseException | None) -> HttpResponse:
    """Return 503 with `Retry-After`: a page in the admin, the envelope on every other path.

    The request's log line gets the type of the exception and its SQLSTATE, but not its message, which may quote PHI.
    """
    request.outage = {"outage": type(exception).__name__, "sqlstate": sqlstate(exception)}  # type: ignore[attr-defined]
    headers = {"Retry-After": RETRY_AFTER}
    if in_admin(request):
        return error_page(request, "outage", ErrorCode.NOT_READY.status, headers=headers)
    message = "A dependency is unavailable. Retry in a few seconds."
    return failure_response(ErrorCode.NOT_READY, message, headers=headers)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if in_admin(request):
        return error_page(request, "csrf", ErrorCode.FORBIDDEN.status)
    return failure_response(ErrorCode.FORBIDDEN, "CSRF token missing or invalid. Reload the page and try again.")
