"""Requests with odd paths, queries, hosts, headers and bodies, as bytes."""

from collections.abc import Iterator

QUERIES = [
    *(b"q=%00", b"%00=%00", b"q=%", b"q=%zz", b"%%%", b"q=%ff%fe", b"q=%ed%a0%80", b"q=\xff", b"&&;;==&", b"q[]=1"),
    *(b"q=" + b"x" * 3_000, b"next=//evil.example", b"next=%00", b"next=http://[", b"next=" + b"%2f" * 900),
    *(b"page=-1", b"page=%00", b"o=%00", b"p=99999999999999999999", b"e=1", b"a=1&" * 500),
]
PATHS = [
    *(b"//", b"/%00", b"/%", b"/%zz", b"/%ff", b"/%ed%a0%80", b"/\xff", b"/a" * 1_500, b"/health/%00", b"/.", b"*"),
    *(b"/admin/%00/", b"/admin/core/user/%00/", b"/admin/core/user/%00/change/", b"/admin/core/user/..%2f..%2fetc/"),
    *(b"/admin/%0d%0aX:1/", b"/static/%00", b"/static/../manage.py", b"/static/%2e%2e/manage.py", b"/static/\xff"),
]
HOSTS = [
    *(b"", b" ", b"a b", b"localhost:99999999", b"localhost:", b"localhost:x", b":80", b"[", b"[::1", b"[::1]:x"),
    *(b"[zz]", b"\xff", b"%00", b"localhost%00", b"localhost,evil", b"localhost/..", b"user@localhost", b"x" * 5_000),
    *(b"xn--a", b"\xc3\xa4.example", b"..", b".localhost", b"localhost."),
]
# Python's codecs include these. Some are no text encodings.
CODECS = [b"zlib", b"hex", b"rot13", b"idna", b"undefined", b"utf-7", b"utf-16", b"unicode_escape", b"mbcs", b"nothing"]
PARAMETERS = [
    *(b"charset=" + codec for codec in CODECS),
    *(
        b"",
        b";;",
        b"=",
        b"charset",
        b"charset=",
        b'charset="z;lib"',
        b"charset=\xff",
        b"CHARSET=ZLIB",
        b"a=" + b"x" * 7_000,
    ),
    *(b"charset*=zlib''x", b"charset*=utf-8''zlib", b"charset*0=z; charset*1=lib", b"a*=nothing''x", b"a*=zlib''%ff"),
    *(b"a*=undefined''%ff", b"a*='''''", b"a*0*=x; a*1*=y", b"a*99999999999=x", b"a=b" + b"; a=b" * 1_000),
]
HEADERS = [
    *(b"Content-Type: text/plain; " + parameters for parameters in PARAMETERS),
    *(b"Content-Type: " + value for value in (b"", b";", b"; charset=zlib", b"\xff; charset=utf-8")),
    *(b"Cookie: " + value for value in (b"a=b; " * 1_500, b"a" * 7_000, b'=; ;;=;"; sessionid', b"messages=\xff")),
    *(b"Cookie: sessionid=" + value for value in (b"", b"%00", b"\xff", b"x" * 5_000, b"'\"\\", b"../../x", b"a" * 32)),
    *(b"Cookie: status_access=" + value for value in (b"", b"a:b:c", b"\xff", b":::", b"x" * 3_000)),
    *(b"Cookie: csrftoken=" + value for value in (b"", b"\xff", b"x" * 3_000, b"a" * 32)),
    *(b"Authorization: " + value for value in (b"Bearer \xff", b"Basic \xff", b"\xff")),
    *(b"Accept: \xff;q=x,*/*;;;=", b"Accept-Encoding: \xff;q=x", b"Accept-Language: \xff" + b"," * 2_000),
    *(
        b"If-Modified-Since: \xff",
        b'If-None-Match: \xff"',
        b"Range: bytes=9-1,x",
        b"Date: \xff",
        b"Expect: 100-continue",
    ),
    *(b"Origin: http://[", b"Origin: \xff", b"Referer: http://[\xff", b"X-CSRFToken: \xff"),
    *(b"X-Forwarded-For: \xff, [", b"X-Forwarded-Proto: \xff", b"X-Forwarded-Host: ["),
    *(b"X-Request-ID: \xff", b"traceparent: \xff", b"X-HTTP-Method-Override: \xff"),
]
FORM, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
PARTS = [
    *(
        b'Content-Disposition: form-data; name="\xff"\r\n\r\nx',
        b"Content-Transfer-Encoding: base64\r\n\r\n=",
        b"",
        b":",
    ),
    *(b"Content-Disposition: form-data; name=username; " + parameters + b"\r\n\r\n\x00" for parameters in PARAMETERS),
    *(b"Content-Disposition: form-data; name*=" + codec + b"''%ff\r\n\r\nx" for codec in CODECS),
    b"Content-Disposition: form-data; name=a; filename=\xff\r\nContent-Type: a; charset=zlib\r\n\r\nx",
]
BODIES = [
    *((FORM, body) for body in (b"username=%00&password=%00", b"username=%ff&password=%ed%a0%80&next=%00")),
    (FORM, b"username=" + b"x" * 100_000 + b"&password=x"),
    (FORM, b"&".join(b"a%d=1" % number for number in range(1_001))),
    *((FORM + b"; " + parameters, b"username=%ff&password=x") for parameters in PARAMETERS),
    *(
        (MULTIPART + boundary, b"x")
        for boundary in (b"", b"; boundary=", b"; boundary=\xff", b"; boundary=" + b"x" * 99)
    ),
    *((MULTIPART + b"; boundary=b", b"--b\r\n" + part + b"\r\n--b--") for part in PARTS),
    *((MULTIPART + b"; boundary=b; " + parameters, b"--b\r\n" + PARTS[4] + b"\r\n--b--") for parameters in PARAMETERS),
    (b"application/json", b"\xff{" + b"[" * 100_000),
]


def build(path: bytes, *headers: bytes, host: bytes = b"localhost", body: bytes | None = None) -> bytes:
    method = b"GET " if body is None else b"POST "
    length = () if body is None else (b"Content-Length: %d" % len(body),)
    head = (method + path + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *headers, *length)
    return b"\r\n".join((*head, b"", body or b""))


def odd_requests(session: bytes, token: bytes) -> Iterator[bytes]:
    """Yield requests of an anonymous client, of one who is logged in, and of a form with a valid CSRF token."""
    for path in (b"/", b"/health", b"/admin/login/"):
        yield from (build(path + b"?" + query) for query in QUERIES)
        yield from (build(path, host=host) for host in HOSTS)
        yield from (build(path + b"?q=1&next=%2f", header) for header in HEADERS)
    for path in (b"/admin/", b"/admin/core/user/"):
        yield from (build(path + b"?" + query, b"Cookie: sessionid=" + session) for query in QUERIES)
    yield from map(build, PATHS)
    for content_type, body in BODIES:
        headers = (b"Cookie: csrftoken=" + token, b"X-CSRFToken: " + token, b"Content-Type: " + content_type)
        yield from (build(path, *headers, body=body) for path in (b"/admin/status/", b"/"))
