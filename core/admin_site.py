"""Admin site that attributes every change to the logged-in user."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path

from core.audit import audit_context
from core.auth.login_throttling import LoginForm
from core.auth.session_expiry import seconds_left


class AdminSite(admin.AdminSite):
    site_header = site_title = "VoiceAssist"
    index_template = "admin/core/index.html"
    empty_value_display = "–"
    enable_nav_sidebar = False  # few models, wide tables
    login_form = LoginForm

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:
        """Run each view that may change data in one transaction whose audit events name the user."""

        @wraps(view)
        def attributed(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method in ("GET", "HEAD", "OPTIONS"):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]
            with audit_context(request):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]

        return super().admin_view(attributed, cacheable)

    def each_context(self, request: Any) -> dict[str, Any]:
        # The template calls it, after a logout for example.
        return {**super().each_context(request), "session_seconds_left": partial(seconds_left, request)}

    def get_urls(self) -> list[Any]:
        return [
            path("stay-logged-in/", self.admin_view(self.stay_logged_in_view), name="stay_logged_in"),
            *super().get_urls(),
        ]

    def stay_logged_in_view(self, request: HttpRequest) -> JsonResponse:
        """Return how long the login lasts. The request itself extends it, as any other does."""
        return JsonResponse({"seconds_left": seconds_left(request)})

    def autocomplete_view(self, request: HttpRequest) -> Any:
        """Return 404, because no page uses this view, and it counts whole tables."""
        raise Http404
