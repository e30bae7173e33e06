"""Takes probes to their view past the middleware that they have no use for.

What follows would refuse a pod's address as host, redirect to HTTPS, or ask the database or Redis for a session, and a
probe has to be answered when each of these is not so.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import resolve

from health.urls import urlpatterns


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
        request.quiet_success = True  # type: ignore[attr-defined]  # read by core.middleware
        response: HttpResponse = match.func(request)
        if hasattr(response, "render"):
            response.render()  # Django renders only what comes through its own view handling
        return response
