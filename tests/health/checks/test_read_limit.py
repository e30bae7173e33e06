"""A check ends soon after its timeout if the server sends one byte at a time, and reads a limited number of bytes."""

import socket
import threading
from types import SimpleNamespace

import pytest
from django.conf import settings

from health.checks import read_limit
from health.checks.failure_reasons import CheckFailed
from health.checks.read_limit import ReadLimit
from tests.support.fixed_reply_server import FixedReplyServer
from tests.support.plugin import drop_readiness_connections
from tests.support.polling import ends_within, succeeds_within
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


def test_read_ends_at_the_deadline_of_its_check() -> None:
    """An open connection has the timeout of the check that opened it, which had more time."""
    limit, (client, server) = ReadLimit(), socket.socketpair()
    with client, server:
        client.settimeout(20)
        wrapped = limit.wrap(client)
        server.sendall(b"x")
        assert wrapped.recv(10) == b"x"  # before the first check, such as the handshake
        limit.start(0.05)
        with ends_within(8), pytest.raises(TimeoutError):
            wrapped.recv(10)
        assert wrapped.gettimeout() == 20


def test_timeout_of_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(read_limit, "time", SimpleNamespace(monotonic=lambda: now))
    limit = ReadLimit()
    limit.start(5.0)
    assert (limit.shorten(None), limit.shorten(3.0), limit.shorten(0.0)) == (5.0, 3.0, 0.0)
    now += 4
    assert (limit.shorten(3.0), limit.shorten(0.5)) == (1.0, 0.5)
    now += 1
    assert limit.shorten(3.0) == 0.01
    assert limit.read(lambda: b"x") == b"x"  # the deadline itself is in time
    now += 0.001
    with pytest.raises(TimeoutError, match=r"^The response did not end in time$"):
        limit.read(lambda: b"x")
    limit.start(1.0)
    assert limit.read(lambda: 1) == 1


def test_number_of_bytes_of_one_check() -> None:
    limit = ReadLimit()
    for _ in range(2):
        limit.start(60)
        limit.read(lambda: b"x" * 999_000)  # what `recv` returns
        limit.read(lambda: None)  # what `readinto` returns if no data is there
        limit.read(lambda: 1_000)  # and if it is
        with pytest.raises(CheckFailed, match=r"^The response exceeds 1000000 bytes$") as raised:
            limit.read(lambda: b"x")
        assert raised.value.reason == "bad_response"
