"""The error page of the admin: what happened, what to do, and the trace id to quote in a report.

It uses neither the database nor Redis, and therefore neither `request.user` nor the web session, so that it can report
that they are down.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template import loader

from core.trace_id import get_or_create_trace_id

# Title, what happened, what to do.
ERRORS = {
    "bad_request": (
        "Bad request",
        "The server could not understand this request. The link may be damaged or out of date.",
        "Go back, or start again from the home page.",
    ),
    "forbidden": (
        "Not allowed",
        "Your account does not have the permission for this page or action.",
        "Ask an administrator if you need it.",
    ),
    "csrf": (
        "The form was not accepted",
        "The security token of the form is missing or out of date, for example because you have logged in again in "
        "another tab, or because the browser blocks cookies. Nothing was saved.",
        "Go back, reload the page and submit the form again. Cookies of this site must be allowed.",
    ),
    "not_found": (
        "Page not found",
        "There is no page at this address. It may have been moved or deleted.",
        "Check the address, or start again from the home page.",
    ),
    "method_not_allowed": (
        "Not a page",
        "This address only accepts forms of other pages, so it can't be opened by itself.",
        "Go back, or start again from the home page.",
    ),
    "too_large": (
        "Too much data",
        "The form contains more than 100 kB. Nothing was saved.",
        "Go back and submit less at once.",
    ),
    "too_many_requests": ("Try again later", "The server has refused this request, because there were too many.", ""),
    "server_error": (
        "This page could not be loaded",
        "An unexpected error occurred in the server.",
        "Try again. If it happens again, report it.",
    ),
    "outage": (
        "Not available right now",
        "The database or another dependency of the server is not available.",
        "Try again in a few seconds. If you submitted a form, check whether it was saved before you repeat it.",
    ),
}


def error_page(
    request: HttpRequest,
    error: str,
    status: int,
    *,
    headers: dict[str, str] | None = None,
    template: str = "admin/error.html",
    **context: Any,
) -> HttpResponse:
    """Return the page of one of ERRORS. `context` can replace its `title`, `explanation` and `advice`."""
    title, explanation, advice = ERRORS[error]
    # Not `each_context`, because it queries the permissions of the user.
    site = {"site_header": admin.site.site_header, "site_title": admin.site.site_title}
    page = {
        **site,
        "title": title,
        "explanation": explanation,
        "advice": advice,
        "is_server_error": status >= 500,
        "is_outage": error == "outage",
        "can_view_status": getattr(request, "can_view_status", False),  # set by health.middleware
        "trace_id": get_or_create_trace_id(),
        **context,
    }
    return HttpResponse(loader.render_to_string(template, page), status=status, headers=headers)
