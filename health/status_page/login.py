"""`/admin/login/`, which shows what is down and since when, instead of a form, while the database is down."""

import time
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from core.api.error_codes import ErrorCode
from core.clients.outages import RETRY_AFTER, is_outage
from core.clients.postgresql.time_limit import request_time_limit
from core.durations import format_duration
from core.http.error_pages import error_page
from health import readiness
from health.check_runner import Report
from health.checks import failure_reasons
from health.status_page import context

_MAX_QUERY_TIME = 1.0  # seconds
_MAX_REPORT_AGE = 15.0  # seconds


@never_cache
def page(request: HttpRequest) -> Any:
    """Show the admin's login page, or an error page with what `/ready` shows to anonymous clients and the times.

    A round of readiness checks waits for all dependencies, so it is run only if the last one is old, or if the database
    seems to be down.
    """
    runner = readiness.runner()
    if (latest := runner.latest) and _is_current(latest) and _reason(latest) is None and _responds():
        return admin.site.login(request)
    report = runner.report()
    # A database that timed out may only be slower than HEALTH_TIMEOUT, and a login has more time.
    is_slow = _reason(report) == failure_reasons.TIMEOUT and _responds()
    return admin.site.login(request) if _reason(report) is None or is_slow else _unavailable(request, report)


def _is_current(report: Report) -> bool:
    return time.monotonic() - report.finished_at < _MAX_REPORT_AGE


def _reason(report: Report) -> str | None:
    """Return why the database is unhealthy, None if it is not."""
    return next(result.reason for result in report.results if result.name == "postgres")


def _responds() -> bool:
    """Return whether the database answers. If it hangs, the check has opened the circuit breaker, so this is fast."""
    try:
        with request_time_limit(_MAX_QUERY_TIME), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        if not is_outage(error):
            raise
        return False
    return True


def _unavailable(request: HttpRequest, report: Report) -> HttpResponse:
    """Return 503. Neither the web session nor the user is read, because that would wait for the database."""
    since = {row["name"]: datetime.fromtimestamp(row["since"], UTC) for row in context.build(report)["dependencies"]}
    dependencies = readiness.as_dict(report)["dependencies"]
    causes = {result.name: result.cause for result in report.results}
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
        dependencies=[
            {"name": name, "since": since[name], "cause": causes[name], **state} for name, state in dependencies.items()
        ],
        database_down_since=since["postgres"],
        down_for=format_duration((datetime.now(UTC) - since["postgres"]).total_seconds()),
        url=request.get_full_path(),
    )
