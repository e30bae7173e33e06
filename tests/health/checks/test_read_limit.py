"""A check ends soon after its timeout if the server sends one byte at a time, and reads a limited number of bytes."""

import threading

import pytest
from django.conf import settings

from tests.support.fixed_reply_server import FixedReplyServer
from tests.support.plugin import drop_readiness_connections
from tests.support.polling import succeeds_within
from tests.support.readiness import check

TIMEOUT = 0.5


@pytest.mark.parametrize(
    ("name", "setting", "url", "reply", "drip"),
    [
        ("redis", "REDIS_URL", "redis://127.0.0.1:{}/0", b"+", b"x"),
        ("redis", "REDIS_URL", "redis://127.0.0.1:{}/0", b"$9999\r\n", b"x"),
        ("redis", "REDIS_URL", "redis://127.0.0.1:{}/0", b"*9999\r\n", b":1\r\n"),
        ("redis", "REDIS_URL", "redis+sentinel://127.0.0.1:{}/service", b"+", b"x"),
        ("qdrant", "QDRANT_URL", "http://127.0.0.1:{}", b"HTTP/1.1 200 OK\r\nServer: ", b"x"),
        ("qdrant", "QDRANT_URL", "http://127.0.0.1:{}", b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        ("qdrant", "QDRANT_URL", "http://127.0.0.1:{}", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n"),
        ("qdrant", "QDRANT_URL", "http://127.0.0.1:{}", b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    ],
    ids=["line", "bulk", "array", "sentinel", "header", "headers", "interim", "body"],
)
def test_slow_response_ends(
    monkeypatch: pytest.MonkeyPatch, name: str, setting: str, url: str, reply: bytes, drip: bytes
) -> None:
    with FixedReplyServer(reply, drip=drip) as server:
        monkeypatch.setattr(settings, setting, url.format(server.port))
        drop_readiness_connections()
        assert check(name, TIMEOUT).reason == "timeout"
        # Without a limit the thread would end when the server does.
        assert succeeds_within(5, lambda: not any(thread.name == f"check-{name}" for thread in threading.enumerate()))


def test_large_response_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with FixedReplyServer(b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 60_000 + b"\r\n", drip=b"x" * 60_000) as server:
        monkeypatch.setattr(settings, "QDRANT_URL", f"http://127.0.0.1:{server.port}")
        drop_readiness_connections()
        assert check("qdrant").reason == "bad_response"
