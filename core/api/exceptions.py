"""Convert exceptions of DRF views to envelopes.

ApiError(code)          raised by our own views
exception_handler       DRF's EXCEPTION_HANDLER

Another APIException, such as one of a library, keeps its HTTP status. It gets the error code of that status. If there
is none, it gets BAD_REQUEST for a 4xx and INTERNAL_ERROR for a 5xx.

`core.http.error_handlers` handles exceptions outside of DRF views, and outages of dependencies anywhere.
"""

import http.client
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions, views
from rest_framework.response import Response

from core.api.envelope import error
from core.api.error_codes import ErrorCode

log = structlog.stdlib.get_logger("voiceassist.api")


class ApiError(exceptions.APIException):
    """A failure with an error code. `details` is sent to the client, so it must not contain PHI."""

    def __init__(self, code: ErrorCode, message: str | None = None, *, details: Any = None) -> None:
        super().__init__(message or code.message)
        self.code, self.message, self.details = code, message, details
        self.status_code = code.status


# The first class that matches decides, so subclasses come before their base classes.
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
    (exceptions.NotAcceptable, ErrorCode.BAD_REQUEST),  # the contract: an Accept header never causes a 406
)
# The codes of other exceptions. Where several codes have one status, the last is the most general.
_CODES_BY_STATUS = {code.status: code for code in ErrorCode}


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """Return the envelope for an exception that DRF handles, None for any other, which Django then handles.

    DRF's own handler runs first, because it rolls back the transaction and sets `Allow` and `Retry-After`.
    """
    response = views.exception_handler(exception, context)
    if response is None:
        return None
    details = None
    if isinstance(exception, ApiError):
        code, status, message, details = exception.code, exception.code.status, exception.message, exception.details
    elif known_code := _known_code(exception):
        # DRF changes 401 to 403 when no authenticator provides WWW-Authenticate. The code determines the status.
        code, status, message = known_code, known_code.status, None
    else:
        code, status, message = _nearest_code(response.status_code)
        if status >= 500:
            log.error("unhandled exception", exc_info=exception)
    if isinstance(exception, exceptions.ValidationError):
        details = exception.get_codes()  # DRF's messages quote the invalid value; its codes do not
    response.status_code = status
    response.data = error(code, message, details)
    return response


def _known_code(exception: Exception) -> ErrorCode | None:
    """Return the code of one of DRF's exceptions. Return None for another one, or a subclass with its own status."""
    for cls, code in _CODES:
        if isinstance(exception, cls):
            has_same_status = getattr(type(exception), "status_code", None) == getattr(cls, "status_code", None)
            return code if has_same_status else None
    return None


def _nearest_code(status: int) -> tuple[ErrorCode, int, str | None]:
    """Return the code for a status, the status and a message, which is that of HTTP unless the error is internal."""
    if status < 400:
        status = 500
    code = _CODES_BY_STATUS.get(status, ErrorCode.BAD_REQUEST if status < 500 else ErrorCode.INTERNAL_ERROR)
    if code is ErrorCode.INTERNAL_ERROR:
        return code, status, None
    return code, status, f"{http.client.responses.get(status, 'Request refused')}."
