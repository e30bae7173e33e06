"""Takes probes and the status page to their views past the middleware that they have no use for.

What follows the first would refuse a pod's address as host, or redirect to HTTPS; what follows the second may ask the
database or Redis for a web session. A probe has to be answered when none of that is well, and the status page when the
last is not.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import resolve

from core.http.error_handlers import in_admin
from health.status_page import access as passes
from health.urls import status_urlpatterns, urlpatterns


class ProbeMiddleware:
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
        if hasattr(response, "render"):
            response.render()  # Django renders only what comes through its own view handling
        return response


class StatusMiddleware:
    """Answers the status page, and gives staff the pass for it with every page of the admin."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        paths = [f"/{pattern.pattern}" for pattern in status_urlpatterns]
        self.matches = {path: resolve(path) for path in paths}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match = self.matches.get(request.path_info)
        if match is not None:
            request.resolver_match = match
            return match.func(request)  # type: ignore[no-any-return]
        response = self.get_response(request)
        if in_admin(request):
            passes.give(request, response)
        return response
