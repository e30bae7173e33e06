"""Exceptions of views become envelopes with the right code, without the exception's message, which may be PHI."""

import http.client
import json
from typing import Any

import httpx
import psycopg
import pytest
import redis.exceptions
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from django.views import View
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.clients.postgresql.errors import NoResponse
from tests.core.api.test_envelope import check_envelope

CANARY = "canary of a patient"
EXCEPTIONS: list[Exception] = []


class DrfView(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        raise EXCEPTIONS[-1]

    def post(self, request: Request) -> Response:
        return Response(request.data, 201)

    def delete(self, request: Request) -> Response:
        return Response(status=204)


class PrivateView(APIView):
    def get(self, request: Request) -> Response:
        return Response({})


class DjangoView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        raise EXCEPTIONS[-1]


urlpatterns = [
    path("drf", DrfView.as_view()),
    path("private", PrivateView.as_view()),
    path("django", DjangoView.as_view()),
    path("", include("voiceassist.urls")),
]
handler400 = "core.http.error_handlers.bad_request"
handler403 = "core.http.error_handlers.permission_denied"
handler404 = "core.http.error_handlers.page_not_found"
handler500 = "core.http.error_handlers.server_error"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def urls() -> Any:
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (exceptions.NotAuthenticated(), "AUTH_REQUIRED"),
        (exceptions.AuthenticationFailed(CANARY), "AUTH_FAILED"),
        (exceptions.PermissionDenied(CANARY), "FORBIDDEN"),
        (PermissionDenied(CANARY), "FORBIDDEN"),
        (exceptions.NotFound(CANARY), "NOT_FOUND"),
        (Http404(CANARY), "NOT_FOUND"),
        (exceptions.MethodNotAllowed("GET"), "METHOD_NOT_ALLOWED"),
        (exceptions.ValidationError({"name": [serializers.ErrorDetail(CANARY, "invalid")]}), "VALIDATION_ERROR"),
        (exceptions.Throttled(wait=7), "RATE_LIMITED"),
        (exceptions.ParseError(CANARY), "BAD_REQUEST"),
        (exceptions.UnsupportedMediaType(CANARY), "BAD_REQUEST"),
        (exceptions.NotAcceptable(CANARY), "BAD_REQUEST"),
        (exceptions.APIException(CANARY), "INTERNAL_ERROR"),
        (ValueError(CANARY), "INTERNAL_ERROR"),
        (SuspiciousOperation(CANARY), "BAD_REQUEST"),
        *((ApiError(code), code.name) for code in ErrorCode if code.status >= 400),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_exception_of_drf_view(client: Client, exception: Exception, code: str) -> None:
    EXCEPTIONS.append(exception)
    response = client.get("/drf", headers={"accept": "text/html"})
    assert response.status_code == ErrorCode[code].status
    body = json.loads(response.content)
    check_envelope(body, response.status_code)
    assert body["error"]["code"] == code
    assert CANARY not in response.content.decode()


def unknown(status: int, base: type[exceptions.APIException] = exceptions.APIException) -> exceptions.APIException:
    """Return an exception as a library defines them."""
    cls: type[exceptions.APIException] = type(f"Error{status}", (base,), {"status_code": status})
    return cls(CANARY)


@pytest.mark.parametrize(
    ("exception", "status", "code", "message"),
    [
        (unknown(410), 410, "BAD_REQUEST", "Gone."),
        (unknown(413), 413, "BAD_REQUEST", f"{http.client.responses[413]}."),
        (unknown(415), 415, "BAD_REQUEST", "Unsupported Media Type."),
        (unknown(418), 418, "BAD_REQUEST", "I'm a Teapot."),
        (unknown(499), 499, "BAD_REQUEST", "Request refused."),
        (unknown(400), 400, "BAD_REQUEST", "Bad Request."),
        (unknown(401), 401, "AUTH_REQUIRED", "Unauthorized."),
        (unknown(403), 403, "FORBIDDEN", "Forbidden."),
        (unknown(404), 404, "NOT_FOUND", "Not Found."),
        (unknown(409), 409, "CONFLICT", "Conflict."),
        (unknown(422), 422, "VALIDATION_ERROR", f"{http.client.responses[422]}."),
        (unknown(429), 429, "RATE_LIMITED", "Too Many Requests."),
        (unknown(503), 503, "NOT_READY", "Service Unavailable."),
        (unknown(504), 504, "KB_TIMEOUT", "Gateway Timeout."),
        (unknown(500), 500, "INTERNAL_ERROR", ErrorCode.INTERNAL_ERROR.message),
        (unknown(502), 502, "INTERNAL_ERROR", ErrorCode.INTERNAL_ERROR.message),
        (unknown(599), 599, "INTERNAL_ERROR", ErrorCode.INTERNAL_ERROR.message),
        *((unknown(status), 500, "INTERNAL_ERROR", ErrorCode.INTERNAL_ERROR.message) for status in (200, 302)),
        (unknown(410, exceptions.NotFound), 410, "BAD_REQUEST", "Gone."),
        (unknown(409, exceptions.ValidationError), 409, "CONFLICT", "Conflict."),
        (unknown(404, exceptions.NotFound), 404, "NOT_FOUND", ErrorCode.NOT_FOUND.message),
    ],
    ids=lambda value: type(value).__bases__[0].__name__ if isinstance(value, Exception) else str(value),
)
def test_exception_of_a_library_keeps_its_status(
    client: Client,
    caplog: pytest.LogCaptureFixture,
    exception: exceptions.APIException,
    status: int,
    code: str,
    message: str,
) -> None:
    EXCEPTIONS.append(exception)
    response = client.get("/drf")
    assert response.status_code == status
    body = response.json()
    check_envelope({**body, "error": {**body["error"], "code": "NOT_FOUND"}}, 404)
    assert (body["error"]["code"], body["error"]["message"]) == (code, message)
    assert CANARY not in response.content.decode()
    defects = [record for record in caplog.records if record.name == "voiceassist.api"]
    assert [record.msg["exc_info"] for record in defects] == [exception] * (status >= 500)  # type: ignore[index]


def test_exception_of_a_library_keeps_its_retry_after(client: Client) -> None:
    exception = unknown(503)
    exception.wait = 7  # type: ignore[attr-defined]  # DRF reads it
    EXCEPTIONS.append(exception)
    assert client.get("/drf")["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (Http404(CANARY), "NOT_FOUND"),
        (PermissionDenied(CANARY), "FORBIDDEN"),
        (SuspiciousOperation(CANARY), "BAD_REQUEST"),
        (ValueError(CANARY), "INTERNAL_ERROR"),
    ],
)
def test_exception_of_django_view(
    client: Client, exception: Exception, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    EXCEPTIONS.append(exception)
    response = client.get("/django")
    assert response.status_code == ErrorCode[code].status
    check_envelope(response.json(), response.status_code)
    assert response.json()["error"]["code"] == code
    assert CANARY not in response.content.decode()
    assert CANARY not in "".join(capsys.readouterr())


def wrapped(cause: Exception) -> Exception:
    """Return the exception that Django raises for this one of psycopg."""
    error = InternalError(CANARY)
    error.__cause__ = cause
    return error


OUTAGES = [
    OperationalError(CANARY),
    InterfaceError(CANARY),
    psycopg.InternalError(CANARY),
    psycopg.errors.AdminShutdown(CANARY),
    psycopg.errors.QueryCanceled(CANARY),
    psycopg.errors.TooManyConnections(CANARY),
    psycopg.errors.DiskFull(CANARY),
    psycopg.errors.SerializationFailure(CANARY),
    NoResponse(CANARY),
    wrapped(NoResponse(CANARY)),
    wrapped(psycopg.errors.AdminShutdown(CANARY)),
    wrapped(psycopg.errors.ReadOnlySqlTransaction(CANARY)),
    wrapped(psycopg.errors.IdleInTransactionSessionTimeout(CANARY)),
    redis.exceptions.ConnectionError(CANARY),
    redis.exceptions.TimeoutError(CANARY),
    ResponseHandlingException(ValueError(CANARY)),
    UnexpectedResponse(503, CANARY, b"", httpx.Headers()),
]


@pytest.mark.parametrize("path", ["/drf", "/django"])
@pytest.mark.parametrize("exception", OUTAGES, ids=lambda error: type(error).__name__)
def test_outage_returns_503(client: Client, exception: Exception, path: str, caplog: pytest.LogCaptureFixture) -> None:
    EXCEPTIONS.append(exception)
    response = client.get(path)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    check_envelope(response.json(), 503)
    assert response.json()["error"]["code"] == "NOT_READY"
    assert CANARY not in response.content.decode() + caplog.text
    (line,) = caplog.records
    assert line.msg["outage"] == type(exception).__name__  # type: ignore[index]  # structlog logs a dictionary


@pytest.mark.parametrize(
    "exception",
    [
        InternalError(CANARY),
        wrapped(psycopg.errors.InFailedSqlTransaction(CANARY)),
        ProgrammingError(CANARY),
        psycopg.errors.StatementTooComplex(CANARY),
        InterfaceError(f"the cursor is closed {CANARY}"),
        OperationalError(f"number of parameters must be between 0 and 65535 {CANARY}"),
        UnexpectedResponse(400, CANARY, b"", httpx.Headers()),
    ],
    ids=lambda error: type(error.__cause__ or error).__name__,
)
def test_bug_returns_500(client: Client, exception: Exception) -> None:
    EXCEPTIONS.append(exception)
    assert client.get("/django").status_code == 500


def test_method_not_allowed_in_django_view(client: Client) -> None:
    response = client.post("/django")
    assert response.status_code == 405
    check_envelope(response.json(), 405)
    assert "GET" in response["Allow"]


def test_keeps_headers_and_details(client: Client) -> None:
    EXCEPTIONS.append(exceptions.Throttled(wait=7))
    assert client.get("/drf")["Retry-After"] == "7"
    EXCEPTIONS.append(exceptions.ValidationError({"name": [serializers.ErrorDetail(CANARY, "invalid")]}))
    assert client.get("/drf").json()["error"]["details"] == {"name": ["invalid"]}
    EXCEPTIONS.append(ApiError(ErrorCode.CONFLICT, "Duplicate.", details={"id": 1}))
    assert client.get("/drf").json()["error"] == {"code": "CONFLICT", "message": "Duplicate.", "details": {"id": 1}}


def test_success_statuses(client: Client) -> None:
    response = client.post("/drf", {"a": 1}, content_type="application/json")
    assert response.status_code == 201
    check_envelope(response.json(), 201)
    assert response.json()["data"] == {"a": 1}
    assert client.delete("/drf").content == b""


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("{", "application/json"),
        ("[" * 100_000, "application/json"),
        ('{"a":' * 20_000, "application/json"),
        ("9" * 5_000, "application/json"),
        ("NaN", "application/json"),
        (b"\xff", "application/json"),
        ("<a/>", "application/xml"),
        ("a=1", "text/plain"),
    ],
)
def test_rejects_invalid_body(client: Client, body: str | bytes, content_type: str) -> None:
    response = client.post("/drf", body, content_type=content_type)
    assert response.status_code == 400
    check_envelope(response.json(), 400)


def test_views_require_authentication_by_default(client: Client) -> None:
    response = client.get("/private")
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "AUTH_REQUIRED"


def test_csrf_failure(admin_user: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    response = client.post("/django")
    assert response.status_code == 403
    check_envelope(response.json(), 403)


def test_error_codes() -> None:
    assert {code.name: code.status for code in ErrorCode} == {
        "AUTH_FAILED": 401, "AUTH_REQUIRED": 401, "FORBIDDEN": 403, "NOT_FOUND": 404, "BAD_REQUEST": 400,
        "METHOD_NOT_ALLOWED": 405, "CONFLICT": 409, "VALIDATION_ERROR": 422, "RATE_LIMITED": 429,
        "INTERNAL_ERROR": 500, "TOOL_ERROR": 503, "LLM_ERROR": 503, "NOT_READY": 503, "KB_TIMEOUT": 504,
        "PHI_DETECTED": 200, "PHI_REDACTED": 200,
    }  # fmt: skip
