"""Refused requests are logged: one line per minute and kind, with a remedy and without the refused value."""

import json
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from django.contrib.sessions.models import Session as WebSession
from django.core import exceptions
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from core.auth.web_sessions import SessionStore
from tests.voiceassist.test_logs import Read, capture_log, restore_logging
from voiceassist.logs.refused_requests import INTERVAL

__all__ = ["restore_logging"]

CANARY = "canary-of-a-patient"
EXCEPTIONS: list[Exception] = []


def fail(request: HttpRequest) -> HttpResponse:
    raise EXCEPTIONS[-1]


urlpatterns = [path("fail/", fail), path("", include("voiceassist.urls"))]
handler400 = "core.http.error_handlers.bad_request"
handler403 = "core.http.error_handlers.permission_denied"

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def lines() -> Iterator[Read]:
    """Return a function that returns the lines of refused requests, and check that no line contains the canary."""
    stream = capture_log("json")

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in lines if line["logger"] == "voiceassist.security"]

    with override_settings(ROOT_URLCONF=__name__):
        yield read
    assert CANARY not in stream.getvalue()


COOKIE = {"HTTP_COOKIE": f"csrftoken={'x' * 32}"}


@pytest.mark.parametrize(
    ("kind", "remedy", "status", "headers"),
    [
        ("DisallowedHost", "ALLOWED_HOSTS", 400, {"HTTP_HOST": f"{CANARY}.example.org"}),
        ("DisallowedHost", "ALLOWED_HOSTS", 400, {"HTTP_HOST": f"{CANARY}/@:port"}),
        ("csrf_origin", "CSRF_TRUSTED_ORIGINS", 403, {"HTTP_ORIGIN": f"https://{CANARY}"}),
        ("csrf_origin", "CSRF_TRUSTED_ORIGINS", 403, {"HTTP_ORIGIN": f"CSRF cookie {CANARY}"}),
        ("csrf_referer", "CSRF_TRUSTED_ORIGINS", 403, {"wsgi.url_scheme": "https"}),
        *(
            ("csrf_referer", "CSRF_TRUSTED_ORIGINS", 403, {"wsgi.url_scheme": "https", "HTTP_REFERER": referer})
            for referer in (f"https://{CANARY}/", f"http://{CANARY}/", CANARY, f"https://[{CANARY}")
        ),
        ("csrf_cookie", "HTTPS_ONLY", 403, {}),
        ("csrf_token", "reload", 403, COOKIE),
        ("csrf_token", "reload", 403, {**COOKIE, "HTTP_X_CSRFTOKEN": CANARY}),
        ("csrf_token", "reload", 403, {**COOKIE, "HTTP_X_CSRFTOKEN": CANARY * 4}),
        ("csrf_cookie", "HTTPS_ONLY", 403, {"HTTP_COOKIE": f"csrftoken={CANARY}"}),
    ],
)
def test_logs_the_kind_and_a_remedy(
    client: Client, lines: Read, kind: str, remedy: str, status: int, headers: dict[str, str]
) -> None:
    response = client.post(f"/admin/login/?q={CANARY}", {"username": CANARY}, **headers)  # type: ignore[arg-type]
    assert response.status_code == status
    (line,) = lines()
    assert (line["kind"], line["suppressed"], line["level"]) == (kind, 0, "warning")
    assert remedy in line["message"]
    assert line["trace_id"] == response["X-Request-ID"]


@pytest.mark.parametrize(
    "exception",
    [
        exceptions.DisallowedRedirect,
        exceptions.RequestDataTooBig,
        exceptions.TooManyFieldsSent,
        exceptions.TooManyFilesSent,
        exceptions.SuspiciousOperation,
        type("DefinedByALibrary", (exceptions.SuspiciousFileOperation,), {}),
    ],
)
def test_logs_every_suspicious_operation_by_its_name(client: Client, lines: Read, exception: type[Exception]) -> None:
    EXCEPTIONS.append(exception(CANARY))
    assert client.get(f"/fail/?q={CANARY}").status_code == 400
    (line,) = lines()
    assert line["kind"] == exception.__name__
    assert line["message"].startswith("A suspicious request was refused.")


@pytest.mark.parametrize("exception", [exceptions.PermissionDenied(CANARY), exceptions.BadRequest(CANARY)])
def test_expected_refusals_are_only_in_the_line_of_the_request(
    client: Client, exception: Exception, lines: Read, caplog: pytest.LogCaptureFixture
) -> None:
    EXCEPTIONS.append(exception)
    assert client.get("/fail/").status_code in (400, 403)
    assert [record.name for record in caplog.records] == ["voiceassist.request"]


def test_logs_sessions_that_can_not_be_decoded(client: Client, lines: Read, admin_user: object) -> None:
    session = SessionStore()
    session["a"] = 1
    session.save()
    WebSession.objects.update(session_data=f"{CANARY}:signed-with-another-key")
    # Not clear(), which would also remove the worker that the tests pretend to have.
    cache.delete_pattern("*")  # type: ignore[attr-defined]  # django-redis'
    client.cookies["sessionid"] = str(session.session_key)
    assert client.get("/admin/").status_code == 302
    (line,) = lines()
    assert line["kind"] == "SuspiciousSession"
    assert "SECRET_KEY" in line["message"]


def test_logs_each_kind_once_a_minute_with_the_number_of_suppressed_lines(
    client: Client, lines: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("voiceassist.logs.refused_requests.monotonic", lambda: now)
    for _ in range(4):
        client.get("/", headers={"host": CANARY})
        client.post("/admin/login/")
    assert [(line["kind"], line["suppressed"]) for line in lines()] == [("DisallowedHost", 0), ("csrf_cookie", 0)]
    now += INTERVAL - 1
    client.get("/", headers={"host": CANARY})
    assert len(lines()) == 2
    now += 1
    client.get("/", headers={"host": CANARY})
    now += INTERVAL
    client.get("/", headers={"host": CANARY})
    assert [(line["kind"], line["suppressed"]) for line in lines()[2:]] == [
        ("DisallowedHost", 4),
        ("DisallowedHost", 0),
    ]


def test_counts_requests_of_concurrent_threads(lines: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("voiceassist.logs.refused_requests.monotonic", lambda: now)

    def refuse() -> None:
        for _ in range(50):
            Client().get("/", headers={"host": CANARY})

    threads = [Thread(target=refuse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now += INTERVAL
    Client().get("/", headers={"host": CANARY})
    assert [line["suppressed"] for line in lines()] == [0, 199]
