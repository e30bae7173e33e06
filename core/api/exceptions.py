"""Convert exceptions of DRF views to envelopes.

ApiError(code)          raised by our own views
exception_handler       DRF's EXCEPTION_HANDLER

`core.http.error_handlers` handles exceptions outside of DRF views, and outages of dependencies anywhere.
"""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions, views
from rest_framework.response import Response

from core.api.envelope import error
from core.api.error_codes import ErrorCode


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
)


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """Return the envelope for an exception that DRF handles, None for any other, which Django then handles.

    DRF's own handler runs first, because it rolls back the transaction and sets `Allow` and `Retry-After`.
    """
    response = views.exception_handler(exception, context)
    if response is None:
        return None
    if isinstance(exception, ApiError):
        code, message, details = exception.code, exception.message, exception.details
    else:
        code = next((code for cls, code in _CODES if isinstance(exception, cls)), ErrorCode.INTERNAL_ERROR)
        message, details = None, None
    if isinstance(exception, exceptions.ValidationError):
        details = exception.get_codes()  # DRF's messages quote the invalid value; its codes do not
    # DRF changes 401 to 403 when no authenticator provides WWW-Authenticate. The envelope's code determines the status.
    response.status_code = code.status
    response.data = error(code, message, details)
    return response
