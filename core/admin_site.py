"""The admin site: what is done in it is done as somebody."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponseBase

from core.audit import audit_context
from core.auth.login_throttling import LoginForm


class AdminSite(admin.AdminSite):
    site_header = site_title = "VoiceAssist"
    index_title = "Inspect"
    index_template = "admin/core/index.html"
    empty_value_display = "–"
    enable_nav_sidebar = False  # few models, wide tables
    login_form = LoginForm

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:
        """Every view that changes something is one transaction, whose changes are recorded as those of the user."""

        @wraps(view)
        def attributed(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method in ("GET", "HEAD", "OPTIONS"):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]
            with audit_context(request):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]

        return super().admin_view(attributed, cacheable)

    def autocomplete_view(self, request: HttpRequest) -> Any:
        """No page of ours asks it for anything, and it counts whole tables."""
        raise Http404
