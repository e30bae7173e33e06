"""Respond to probes before other middleware runs, and set the cookie that opens the status page during an outage."""

from collections.abc import Callable
from functools import partial

from django.http import HttpRequest, HttpResponse
from django.urls import resolve

from core.http.error_handlers import in_admin
from health.status_page import access
from health.urls import urlpatterns


class ProbeMiddleware:
    """Pass probes directly to their views.

    Later middleware would reject a pod's address in the Host header, redirect to HTTPS, or query the database or Redis
    for a session.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        paths = [f"/{pattern.pattern}" for pattern in urlpatterns]
        self.matches = {path + slash: resolve(path) for path in paths for slash in ("", "/")}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match = self.matches.get(request.path_info)
        if match is None:
            return self.get_response(request)
        request.resolver_match = match
        request.quiet_success = True  # type: ignore[attr-defined]  # read by core.http.request_logging
        response: HttpResponse = match.func(request)
        return response


class StatusAccessMiddleware:
    """Set the access cookie of the status page on every other admin response to staff.

    Error pages call `request.can_view_status`, which returns whether the cookie would open the page during an outage.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.can_view_status = partial(access.has_valid_cookie, request)  # type: ignore[attr-defined]
        response = self.get_response(request)
        if in_admin(request) and not request.path_info.startswith(access.PATH):
            access.set_cookie(request, response)
        return response
