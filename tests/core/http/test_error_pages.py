"""Inside /admin/ every error is a page of the admin: the product's name, what happened, the trace id and a way home."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path

from core.auth.password_hashing import TooManyHashesError
from core.http import error_handlers
from core.http.error_handlers import too_many_requests
from core.http.error_pages import ERRORS, error_page
from core.models import User
from health.status_page import access

CANARY = "canary of a patient"
EXCEPTIONS: list[Exception] = []


def failing(request: HttpRequest) -> HttpResponse:
    raise EXCEPTIONS[-1]


urlpatterns = [path("admin/failing/", failing), path("", include("voiceassist.urls"))]
handler400 = error_handlers.bad_request
handler403 = error_handlers.permission_denied
handler404 = error_handlers.page_not_found
handler500 = error_handlers.server_error


def check_page(response: Any, status: int, title: str) -> None:
    assert response.status_code == status
    assert response["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert response["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    html = response.content.decode()
    assert re.search(rf"<title>\s*{title} \| VoiceAssist\s*</title>", html)
    assert re.findall(r"<h1>(.*?)</h1>", html) == [title]
    assert re.search(r'id="site-name"><a href="/admin/"', html)
    assert '<a href="/admin/">Go to the home page</a>' in html
    assert f"<code>{response['X-Request-ID']}</code>" in html
    assert CANARY not in html


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def staff_client(db: None, client: Client) -> Client:
    client.force_login(User.objects.create_user("staff@example.org", is_staff=True))
    return client


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_page_needs_neither_database_nor_user(rf: RequestFactory, error: str, debug: bool) -> None:
    """Without the marker `django_db`, a query fails the test."""

    class Request(type(rf.get("/"))):  # type: ignore[misc]
        user = session = property(lambda self: pytest.fail("It may not be reachable."))

    request: Any = Request(rf.get("/admin/").environ)
    with override_settings(DEBUG=debug):
        html = error_page(request, error, 400).content.decode()
    assert f"<h1>{ERRORS[error][0]}</h1>" in html


@pytest.mark.parametrize(
    ("exception", "status", "title"),
    [
        (SuspiciousOperation(CANARY), 400, "Bad request"),
        (PermissionDenied(CANARY), 403, "Not allowed"),
        (Http404(CANARY), 404, "Page not found"),
        (TooManyHashesError(CANARY), 429, "Try again later"),
        (ValueError(CANARY), 500, "This page could not be loaded"),
        (OperationalError(CANARY), 503, "Not available right now"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@override_settings(ROOT_URLCONF=__name__)
def test_exceptions(client: Client, exception: Exception, status: int, title: str) -> None:
    EXCEPTIONS.append(exception)
    check_page(client.get("/admin/failing/"), status, title)


def unknown_page(client: Client) -> Any:
    return client.get("/admin/nothing/")


def unknown_host(client: Client) -> Any:
    return client.get("/admin/", headers={"host": "evil.example.org"})


def too_many_fields(client: Client) -> Any:
    return client.post("/admin/login/", {f"field{number}": "" for number in range(1001)})


def too_large_form(client: Client) -> Any:
    return client.post("/admin/login/", {"field": "x" * 200_000})


def page_without_permission(client: Client) -> Any:
    return client.get("/admin/core/message/")


def typed_url_of_a_form(client: Client) -> Any:
    return client.get("/admin/logout/")


def missing_csrf_token(client: Client) -> Any:
    client.handler.enforce_csrf_checks = True
    return client.post("/admin/login/", {"username": "a", "password": "b"})


@pytest.mark.parametrize(
    ("send", "status", "title"),
    [
        (unknown_page, 404, "Page not found"),
        (unknown_host, 400, "Bad request"),
        (too_many_fields, 400, "Bad request"),
        (too_large_form, 413, "Too much data"),
        (page_without_permission, 403, "Not allowed"),
        (typed_url_of_a_form, 405, "Not a page"),
        (missing_csrf_token, 403, "The form was not accepted"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_requests(staff_client: Client, send: Callable[[Client], Any], status: int, title: str) -> None:
    user = User.objects.get()
    user.user_permissions.set(Permission.objects.filter(codename="view_user"))
    check_page(send(staff_client), status, title)


@pytest.mark.parametrize("path", ["/adminfoo", "/adminfoo/", "/administration/x/", "/api/admin/", "/Admin/"])
def test_only_paths_below_admin_are_pages(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "NOT_FOUND"


def test_429_says_what_the_caller_says(rf: RequestFactory) -> None:
    response = too_many_requests(rf.get("/admin/login/"), "Wait a minute.", "60")
    assert (response.status_code, response["Retry-After"]) == (429, "60")
    assert "<p>Wait a minute.</p>" in response.content.decode()


@override_settings(ROOT_URLCONF=__name__)
def test_status_page_is_linked_for_those_who_can_open_it(staff_client: Client) -> None:
    EXCEPTIONS.append(OperationalError())
    link = 'href="/admin/status/"'
    assert link not in staff_client.get("/admin/failing/").content.decode()
    staff_client.get("/admin/")  # sets the cookie
    assert link in staff_client.get("/admin/failing/").content.decode()
    staff_client.cookies["sessionid"] = "another"
    page = staff_client.get("/admin/failing/").content.decode()
    assert link not in page
    assert 'href="/admin/login/">See what is down</a>' in page
    assert access.COOKIE in staff_client.cookies


def test_no_page_links_to_json(admin_client: Client) -> None:
    assert 'href="/"' not in admin_client.get("/admin/").content.decode()
