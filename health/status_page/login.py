"""`/admin/login/`, which shows what is down and since when, instead of a form, while the database is down."""

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from core.api.error_codes import ErrorCode
from core.clients.outages import RETRY_AFTER
from core.http.error_pages import error_page
from health import readiness
from health.check_runner import Report
from health.status_page import context
from health.templatetags.times import duration


@never_cache
def page(request: HttpRequest) -> Any:
    """Show the admin's login page, or an error page with what `/ready` shows to anonymous clients and the times.

    The report of the readiness checks is at most HEALTH_MAX_AGE old, and takes at most HEALTH_TIMEOUT.
    """
    report = readiness.runner().report()
    if all(result.healthy for result in report.results if result.name == "postgres"):
        return admin.site.login(request)
    return _unavailable(request, report)


def _unavailable(request: HttpRequest, report: Report) -> HttpResponse:
    """Return 503. Neither the web session nor the user is read, because that would wait for the database."""
    since = {row["name"]: datetime.fromtimestamp(row["since"], UTC) for row in context.build(report)["dependencies"]}
    dependencies = readiness.as_dict(report)["dependencies"]
    return error_page(
        request,
        "outage",
        ErrorCode.NOT_READY.status,
        headers={"Retry-After": RETRY_AFTER},
        template="admin/login_unavailable.html",
        title="Nobody can log in",
        explanation="",
        advice="",
        is_outage=False,  # it would link this page
        dependencies=[{"name": name, "since": since[name], **state} for name, state in dependencies.items()],
        database_down_since=since["postgres"],
        down_for=duration((datetime.now(UTC) - since["postgres"]).total_seconds()),
        url=request.get_full_path(),
    )
