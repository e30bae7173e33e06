import pytest

from voiceassist.request_buffer import MAX_BODY_LENGTH, MAX_HEAD_LENGTH, RequestBuffer

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: Chunked \r\n\r\n"


def length(value: bytes) -> bytes:
    return HEAD + b"content-LENGTH: " + value + b"\r\n\r\n"


COMPLETE = [
    HEAD + b"\r\n",
    b"\r\n" + HEAD + b"\r\n",
    HEAD + b"X-Content-Length: 5\r\n\r\n",
    length(b"0"),
    length(b"5 ") + b"12345",
    length(b"0" * 20 + b"5") + b"12345",
    length(b"5") + b"\r\n\r\n5",
    CHUNKED + b"0\r\n\r\n",
    CHUNKED + b"5\r\n12345\r\n0\r\n\r\n",
    CHUNKED + b"A ;a=b\r\n\r\n\r\n\r\n\r\n\r\n\r\n00;a\r\nX: a\r\nY: b\r\n\r\n",
]
MALFORMED = [
    length(b""),
    length(b"-1"),
    length(b"5, 5"),
    length(b"9" * 13),
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    CHUNKED + b"x\r\n",
    CHUNKED + b"\r\n",
    CHUNKED + b"-1\r\n",
    CHUNKED + b"1" * 9000,
]
TOO_LARGE = [
    HEAD + b"X: " + b"x" * MAX_HEAD_LENGTH,
    length(b"%d" % (MAX_BODY_LENGTH + 1)),
    length(b"9" * 12),
    CHUNKED + b"%x\r\n" % MAX_BODY_LENGTH,
    CHUNKED + b"1\r\nx\r\n" * (MAX_BODY_LENGTH // 6 + 1),
    CHUNKED + b"0\r\nX: " + b"x" * MAX_HEAD_LENGTH,
]


@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize("data", COMPLETE)
def test_complete_request(data: bytes, is_at_once: bool) -> None:
    request = RequestBuffer()
    for part in [data[:-1]] if is_at_once else [data[index : index + 1] for index in range(len(data) - 1)]:
        request.add(part)
        assert not request.is_ready, request.data
    request.add(data[-1:] + b"GET /next")
    assert (request.is_complete, request.is_too_large, request.is_malformed) == (True, False, False)
    assert request.data == data + b"GET /next"
    # A probe without a body, also one whose length is 0, is not handled by the threads for other requests.
    assert request.has_body is (b"5" in data.replace(b"X-Content-Length: 5", b"") or b"Transfer" in data)


@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_request(data: bytes) -> None:
    request = RequestBuffer()
    request.add(data)
    assert (request.is_ready, request.is_malformed, request.is_too_large) == (True, True, False)
    assert not request.is_complete  # otherwise the connection would be used for the next request


@pytest.mark.parametrize("data", TOO_LARGE)
def test_too_large_request(data: bytes) -> None:
    request = RequestBuffer()
    for index in range(0, len(data), 4096):
        assert not request.is_ready
        request.add(data[index : index + 4096])
    assert (request.is_ready, request.is_complete, request.is_too_large) == (True, False, True)


def test_largest_requests_are_complete() -> None:
    for data in (
        length(b"%d" % MAX_BODY_LENGTH) + b"x" * MAX_BODY_LENGTH,
        HEAD + b"X: " + b"x" * (MAX_HEAD_LENGTH - 100) + b"\r\n\r\n",
    ):
        request = RequestBuffer()
        request.add(data)
        assert (request.is_complete, request.is_too_large) == (True, False)


def test_expectation() -> None:
    for version, expects_continue in ((b"1.1", True), (b"1.0", False)):
        request = RequestBuffer()
        request.add(length(b"5").replace(b"1.1", version).replace(b"Host", b"Expect: 100-continue\r\nHost"))
        assert request.expects_continue is expects_continue
