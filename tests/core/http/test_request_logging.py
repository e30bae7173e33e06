"""What the outermost middleware does with a response, and what it logs."""

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory

from core.http.request_logging import RequestLoggingMiddleware
from core.models import User

pytestmark = pytest.mark.django_db


def logged_user_id(caplog: pytest.LogCaptureFixture) -> object:
    (record,) = [record for record in caplog.records if record.name == "voiceassist.request"]
    return record.msg["user_id"]  # type: ignore[index]  # structlog logs a dictionary


def test_logs_the_user_of_the_request(admin_client: Client, admin_user: User, caplog: pytest.LogCaptureFixture) -> None:
    assert admin_client.get("/admin/").status_code == 200
    assert logged_user_id(caplog) == str(admin_user.pk)


def test_does_not_load_the_user_for_the_log(admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    assert admin_client.get("/").status_code == 200
    assert logged_user_id(caplog) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("status", [103, 204, 304])
def test_status_without_content_has_no_length(rf: RequestFactory, method: str, status: int) -> None:
    for view_response in (
        HttpResponse(status=status),
        HttpResponse(b"ignored", status=status, headers={"Content-Length": "7"}),
        StreamingHttpResponse([b"ignored"], status=status),
    ):
        response = RequestLoggingMiddleware(lambda request, r=view_response: r)(rf.generic(method, "/"))  # type: ignore[misc]
        assert b"".join(response) == b""
        assert "Content-Length" not in response


@pytest.mark.parametrize("status", [200, 205, 302, 404, 503])
def test_other_status_has_the_length_of_its_content(rf: RequestFactory, status: int) -> None:
    for method, content in (("GET", b"content"), ("HEAD", b"")):
        response = RequestLoggingMiddleware(lambda request: HttpResponse(b"content", status=status))(
            rf.generic(method, "/")
        )
        assert response["Content-Length"] == "7"
        assert response.content == content


def test_stream_has_no_length(rf: RequestFactory) -> None:
    response = RequestLoggingMiddleware(lambda request: StreamingHttpResponse([b"a"]))(rf.get("/"))  # type: ignore[arg-type, return-value]
    assert "Content-Length" not in response
