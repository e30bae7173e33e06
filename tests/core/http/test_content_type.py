import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.test import RequestFactory

from core.http.content_type import read_as_utf_8


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("", ""),
        ("text/plain", "text/plain"),
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ('application/json; charset="UTF-8"', 'application/json; charset="UTF-8"'),
        ("multipart/form-data; boundary=b", "multipart/form-data; boundary=b"),
        ("application/json; charset=latin-1", "application/json"),
        ("application/json; charset=zlib", "application/json"),
        ("application/json; charset=nothing", "application/json"),
        ("text/plain; charset*=zlib''x", "text/plain"),
        ("text/plain; charset*0=z; charset*1=lib", "text/plain"),
        ("text/plain; a*=nothing''x", "text/plain"),
        ("; charset=zlib", ""),
    ],
)
def test_django_reads_every_request_as_utf_8(rf: RequestFactory, sent: str, kept: str) -> None:
    requests: list[WSGIRequest] = []
    environ = {**rf.get("/?q=%C3%A9").environ, "CONTENT_TYPE": sent}
    read_as_utf_8(lambda environ, start_response: [requests.append(WSGIRequest(environ)) or b""])(environ, None)  # type: ignore[func-returns-value]
    assert environ["CONTENT_TYPE"] == kept
    assert requests[0].GET["q"] == "é"
