"""Responses of pages that log in or check a password."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from core.auth import known_devices
from core.auth.password_hashing import RETRY_AFTER, TooManyHashesError
from core.http.error_handlers import too_many_requests


class LoginMiddleware:
    """Sets the cookie of a known device, and responds 429 to requests that can't get the hash of a password in time."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        known_devices.set_cookie(request, response)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, TooManyHashesError):
            return None
        message = "Many users are logging in right now. Nothing was saved. Wait a few seconds, then reload this page."
        return too_many_requests(request, message, str(RETRY_AFTER))
