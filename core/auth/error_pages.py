"""The response to a client that has to wait before it may try again."""

from django.http import HttpRequest, HttpResponse

from core.api.envelope import failure_response
from core.api.error_codes import ErrorCode
from core.http.error_handlers import in_admin
from core.http.error_pages import error_page


def too_many_requests(request: HttpRequest, message: str, retry_after: str) -> HttpResponse:
    """Return 429 with `Retry-After` in seconds: a page in the admin, the envelope on every other path."""
    code, headers = ErrorCode.RATE_LIMITED, {"Retry-After": retry_after}
    if in_admin(request):
        return error_page(request, "too_many_requests", code.status, headers=headers, explanation=message)
    return failure_response(code, message, headers=headers)
