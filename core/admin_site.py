"""Admin site that attributes every change to the logged-in user."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponseBase
from django.urls import reverse_lazy

from core.audit import audit_context
from core.auth.login_throttling import LoginForm


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

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        from core.auth.current_password import PasswordChangeView  # it needs the models, which are not loaded yet

        context = {**self.each_context(request), **(extra_context or {})}
        success_url = reverse_lazy("admin:password_change_done")
        return PasswordChangeView.as_view(success_url=success_url, extra_context=context)(request)

    def autocomplete_view(self, request: HttpRequest) -> Any:
        """Return 404, because no page uses this view, and it counts whole tables."""
        raise Http404
