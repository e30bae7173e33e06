"""`/admin/status/`, and the part of it that an open page fetches again and again.

Nothing here asks for `request.user` or the web session: both need the database or Redis.
"""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import requires_csrf_token
from django.views.decorators.http import require_safe

from health import readiness
from health.multiprocess import worker_slots as workers
from health.status_page import access as passes
from health.status_page import context as status


def _look(request: HttpRequest) -> dict[str, Any] | None:
    """Returns what there is to see, None for whoever may not."""
    report = readiness.runner().report()
    database = next(result for result in report.results if result.name == "postgres")
    if not passes.may_look(request, ask_database=database.healthy):
        return None
    workers.watch(status.WATCHED_FOR)
    return status.collect(report)


@require_safe
@never_cache
@requires_csrf_token  # the page has the admin's button to log out
def page(request: HttpRequest) -> HttpResponse:
    seen = _look(request)
    if seen is None:
        return redirect_to_login(request.path, reverse("admin:login"))
    context = {
        **seen,
        "title": "Status",
        "site_title": admin.site.site_title,
        "site_header": admin.site.site_header,
        "site_url": admin.site.site_url,
        "has_permission": True,
        "give_up_ms": int(1000 * settings.HEALTH_TIMEOUT) + 3000,
    }
    return render(request, "health/status.html", context)


@require_safe
@never_cache
def part(request: HttpRequest) -> HttpResponse:
    request.quiet_success = True  # type: ignore[attr-defined]  # read by core.http.request_logging
    seen = _look(request)
    if seen is None:
        return HttpResponseForbidden()
    return render(request, "health/status_part.html", seen)
