"""`/admin/status/`, and the fragment of it that an open page fetches every two seconds."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from core.auth.session_expiry import seconds_left
from health import readiness
from health.multiprocess import worker_states
from health.status_page import context
from health.status_page.access import can_view_status


def _get_context(request: HttpRequest) -> dict[str, Any] | None:
    """Return the context of both templates, or None for a user without access."""
    report = readiness.runner().report()
    if not can_view_status(request):
        return None
    worker_states.mark_page_viewed()
    return context.build(report)


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    status = _get_context(request)
    if status is None:
        return redirect_to_login(request.path, reverse("admin:login"))
    timeout_ms = int(1000 * settings.HEALTH_TIMEOUT) + 3000
    site = {name: getattr(admin.site, name) for name in ("site_title", "site_header", "site_url")}
    # The session can't be read while the database is down. The cookie then decides.
    seconds = seconds_left(request) or None
    page = {"title": "Status", "has_permission": True, "timeout_ms": timeout_ms, "session_seconds_left": seconds}
    return render(request, "health/status.html", {**status, **site, **page})


@require_safe
@never_cache
def fragment(request: HttpRequest) -> HttpResponse:
    request.quiet_success = True  # type: ignore[attr-defined]  # read by core.http.request_logging
    request.is_automatic_refresh = True  # type: ignore[attr-defined]  # read by core.auth.session_expiry
    status = _get_context(request)
    if status is None:
        return HttpResponseForbidden()
    return render(request, "health/status_fragment.html", status)
