"""Admin site that attributes every change to the logged-in user, and asks for the second factor."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse, reverse_lazy

from core.audit import audit_context
from core.auth import login_views, second_factor, second_factor_views
from core.auth.current_password import PasswordChangeView
from core.auth.login_throttling import LoginForm
from core.auth.session_expiry import seconds_left


class AdminSite(admin.AdminSite):
    site_header = site_title = "VoiceAssist"
    site_url = None  # / is JSON
    index_template = "admin/core/index.html"
    empty_value_display = "–"
    enable_nav_sidebar = False  # few models, wide tables

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:
        """Run each view that may change data in one transaction whose audit events name the user."""

        @wraps(view)
        def attributed(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if second_factor.is_missing(request):
                return second_factor.ask_again(request)
            if request.method in ("GET", "HEAD", "OPTIONS"):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]
            with audit_context(request):
                return view(request, *args, **kwargs)  # type: ignore[no-any-return]

        return super().admin_view(attributed, cacheable)

    def logout(self, request: HttpRequest, extra_context: Any = None) -> TemplateResponse:
        """Log out, and let the browser delete its cache and storage of this site."""
        response = super().logout(request, extra_context)
        response["Clear-Site-Data"] = '"cache", "storage"'  # "cookies" would include those of the domain's other hosts
        return response

    def get_urls(self) -> list[URLPattern | URLResolver]:
        def site_path(route: str, view: Callable[..., Any], name: str) -> URLPattern:
            pattern: URLPattern = path(route, self.admin_view(view), {"site": self}, name=name)
            return pattern

        return [
            path("login/continue/", login_views.continue_login, {"site": self}, name="login_continue"),
            site_path("second-factor/", second_factor_views.manage, "second_factor"),
            path("stay-logged-in/", self.admin_view(self.stay_logged_in_view), name="stay_logged_in"),
            site_path("second-factor/verify/", second_factor_views.verify, "second_factor_verify"),
            path("r/<path:content_type_id>/<path:object_id>/", self.admin_view(self.view_on_site)),
            *super().get_urls(),
        ]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show Django's login page, with a view that asks for the second factor before it logs the user in."""
        if request.method == "GET" and self.has_permission(request):
            return super().login(request, extra_context)  # redirects to the index
        context = {
            **self.each_context(request),
            "title": "Log in",
            "app_path": request.get_full_path(),
            "username": request.user.get_username(),
            **(extra_context or {}),
        }
        if "next" not in request.GET and "next" not in request.POST:
            context["next"] = reverse("admin:index", current_app=self.name)
        view = login_views.PasswordStep.as_view(
            extra_context=context, authentication_form=LoginForm, template_name="admin/login.html"
        )
        return view(request)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        context = {**self.each_context(request), **(extra_context or {})}
        success_url = reverse_lazy("admin:password_change_done")
        return PasswordChangeView.as_view(success_url=success_url, extra_context=context)(request)

    def each_context(self, request: Any) -> dict[str, Any]:
        # The template calls it, after a logout for example.
        return {**super().each_context(request), "session_seconds_left": partial(seconds_left, request)}

    def stay_logged_in_view(self, request: HttpRequest) -> JsonResponse:
        """Return how long the login lasts. The request itself extends it, as any other does."""
        return JsonResponse({"seconds_left": seconds_left(request)})

    def view_on_site(self, request: HttpRequest, **key: str) -> Any:
        """Return 404, because no object has a page outside of the admin, and Django's view loads whole rows."""
        raise Http404

    def autocomplete_view(self, request: HttpRequest) -> Any:
        """Return 404, because no page uses this view, and it counts whole tables."""
        raise Http404
