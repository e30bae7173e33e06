"""Takes probes to their view past the middleware that they have no use for.

What follows would refuse a pod's address as host, redirect to HTTPS, or ask the database or Redis for a session, and a
probe has to be answered when each of these is not so.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from health.urls import PROBES


class ProbeMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self.views = {f"/{name}{slash}": view for name, view in PROBES.items() for slash in ("", "/")}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        view = self.views.get(request.path_info)
        if view is None:
            return self.get_response(request)
        request.quiet_success = True  # type: ignore[attr-defined]  # read by core.middleware
        response: HttpResponse = view(request)
        if hasattr(response, "render"):
            response.render()  # Django renders only what comes through its own view handling
        return response
