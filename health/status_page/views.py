"""`/admin/status/`, the fragment of it that an open page fetches every few seconds, and the documentation."""

import hashlib
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseForbidden
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.views.decorators.cache import never_cache
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_safe

from core.auth.session_expiry import seconds_left
from health import readiness
from health.check_runner import Report
from health.multiprocess import worker_states
from health.status_page import context, runbook
from health.status_page.access import can_view_status

# Seconds after which latencies and durations are sent again if nothing else has changed. After a change they are sent
# with every response for as long.
_UPDATE_INTERVAL = 30


def _report_for_staff(request: HttpRequest) -> Report | None:
    """Return the latest report, or None for a user without access."""
    report = readiness.runner().report()
    return report if can_view_status(request) else None


def _get_context(request: HttpRequest) -> dict[str, Any] | None:
    """Return the context of both templates of the status page, or None for a user without access."""
    report = _report_for_staff(request)
    if report is None:
        return None
    worker_states.mark_page_viewed()
    return context.build(report)


def _login(request: HttpRequest) -> HttpResponse:
    return redirect_to_login(request.path, reverse("admin:login"))


def _site(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the admin's templates. It works while the database is down."""
    site = {name: getattr(admin.site, name) for name in ("site_title", "site_header", "site_url")}
    # The session can't be read while the database is down. The cookie then decides.
    return {**site, "has_permission": True, "session_seconds_left": seconds_left(request) or None}


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    status = _get_context(request)
    if status is None:
        return _login(request)
    timeout_ms = int(1000 * settings.HEALTH_TIMEOUT) + 3000
    page = {"title": "Status", "timeout_ms": timeout_ms}
    return render(request, "health/status.html", {**status, **_site(request), **page})


@require_safe
@never_cache
@gzip_page  # it has no secret, such as a CSRF token, that the length of a compressed response could reveal
def fragment(request: HttpRequest) -> HttpResponse:
    """Return the changing part of the page, or 304 if it is the same except for latencies and durations."""
    request.quiet_success = True  # type: ignore[attr-defined]  # read by core.http.request_logging
    request.is_automatic_refresh = True  # type: ignore[attr-defined]  # read by core.auth.session_expiry
    status = _get_context(request)
    if status is None:
        return HttpResponseForbidden()
    etag = _etag(status)
    response = get_conditional_response(request, etag=etag)
    if response is None:
        response = render(request, "health/status_fragment.html", status)
    response["ETag"] = etag
    return response


def _etag(status: dict[str, Any]) -> str:
    now, server, rows = status["now"], status["server"], status["dependencies"]
    last_change = max(server["started_at"], *(row["since"] for row in rows))
    recently = now if now - last_change < _UPDATE_INTERVAL else now // _UPDATE_INTERVAL
    workers = [(worker.pid, worker.is_alive) for worker in status["workers"]]
    states = [(row["name"], row["label"], row["since"], row["problems"]) for row in rows]
    shown = (server, status["overall"], states, workers, status["database_warnings"], recently)
    return f'"{hashlib.sha256(repr(shown).encode()).hexdigest()[:16]}"'


@require_safe
@never_cache
def documentation(request: HttpRequest, name: str) -> HttpResponse:
    if _report_for_staff(request) is None:
        return _login(request)
    try:
        page = runbook.render(name)
    except FileNotFoundError:
        raise Http404 from None
    return render(request, "health/documentation.html", {**page, **_site(request)})
