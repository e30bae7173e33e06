"""Items of ALLOWED_HOSTS and CSRF_TRUSTED_ORIGINS that Django can match, and HTTP URLs that clients can use."""

import pytest
from django.http.request import split_domain_port, validate_host
from django.test import Client
from pytest_django import Settings

from voiceassist.url_grammar import parse_allowed_host, parse_http_url, parse_origin


@pytest.mark.parametrize(
    ("item", "header"),
    [
        ("example.org", "example.org"),
        ("example.org", "EXAMPLE.org:8443"),
        ("Example.ORG", "example.org."),
        (".example.org", "example.org"),
        (".example.org", "a.b.example.org"),
        ("localhost", "localhost:8000"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a-1.example", "a-1.example"),
        ("192.0.2.1", "192.0.2.1:80"),
        ("[::1]", "[::1]"),
        ("[2001:DB8::1]", "[2001:db8::1]:8000"),
        ("*", "anything.example"),
    ],
)
def test_accepted_host_matches_a_request(item: str, header: str) -> None:
    domain, _ = split_domain_port(header)
    assert validate_host(domain, [parse_allowed_host(item)])


@pytest.mark.parametrize(
    "item",
    [
        "https://example.org",
        "//example.org",
        "example.org/",
        "a b",
        "example.org:8443",
        '["example.org"]',
        '"example.org"',
        "'example.org'",
        "[example.org]",
        "*.example.org",
        "example.*",
        ".*",
        ".",
        "..example.org",
        ".192.0.2.1/",
        "a..b",
        "example.org.",
        "-a.example",
        "a-.example",
        "under_score.example",
        "user@example.org",
        "bücher.example",
        "ｅxample.org",
        "\u212aelvin.example",  # the Kelvin sign, a "k" to a regular expression that ignores case
        "example.org\n.example.com",
        "::1",
        "2001:db8::1",
        "[::1",
        "::1]",
        "[::1]:8000",
        "[fe80::1%eth0]",
        "[]",
        "[127.0.0.1]",
        "256.0.2.1",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.1:80",
        "example.org:",
        "a" * 64 + ".example",
        "a." * 127 + "a",
    ],
)
def test_host_that_matches_no_request_is_rejected(item: str) -> None:
    with pytest.raises(ValueError):
        parse_allowed_host(item)


@pytest.mark.parametrize(
    ("item", "header"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("http://example.org:8080", "http://example.org:8080"),
        ("https://example.org:80", "https://example.org:80"),
        ("https://*.example.org", "https://a.b.example.org"),
        ("https://*.example.org:8443", "https://a.example.org:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
@pytest.mark.django_db
def test_accepted_origin_is_trusted(item: str, header: str, settings: Settings) -> None:
    first = Client()
    form = {"csrfmiddlewaretoken": str(first.get("/admin/login/").context["csrf_token"])}

    def post() -> int:
        client = Client(enforce_csrf_checks=True)  # a new one, because the middleware caches the setting
        client.cookies = first.cookies
        return client.post("/admin/login/", form, headers={"origin": header}).status_code

    assert post() == 403
    settings.CSRF_TRUSTED_ORIGINS = [parse_origin(item)]
    assert post() == 200


@pytest.mark.parametrize(
    "item",
    [
        "example.org",
        "//example.org",
        "https:example.org",
        "https://",
        "https://example.org/",
        "https://example.org/path",
        "https://example.org?query",
        "https://example.org#fragment",
        "https://user@example.org",
        "https://user:password@example.org",
        "https://a b",
        "ftp://example.org",
        "null",
        "*",
        "https://*",
        "https://*example.org",
        "https://a.*.example.org",
        "https://*.*.example.org",
        "https://*.192.0.2.1",
        "https://*.[::1]",
        "https://.example.org",
        "https://example.org.",
        "https://under_score.example",
        "https://bücher.example",
        "https://::1",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://256.0.2.1",
        "https://example.org:",
        "https://example.org:0",
        "https://example.org:65536",
        "https://example.org:port",
        "https://example.org:443",  # browsers omit it
        "http://example.org:80",
        '["https://example.org"]',
    ],
)
def test_origin_that_no_browser_sends_is_rejected(item: str) -> None:
    with pytest.raises(ValueError):
        parse_origin(item)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", "http://host:6333"),
        ("http://host/", "http://host:6333/"),
        ("https://host:443/prefix/", "https://host:443/prefix/"),
        ("HTTP://Qdrant.Example.ORG:1", "http://qdrant.example.org:1"),
        ("http://container_name_1", "http://container_name_1:6333"),
        ("http://qdrant.ns.svc.cluster.local.", "http://qdrant.ns.svc.cluster.local.:6333"),
        ("http://192.0.2.1:80", "http://192.0.2.1:80"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:6333"),
        ("http://[::1]:65535/Path", "http://[::1]:65535/Path"),
    ],
)
def test_http_url_gets_the_default_port(url: str, expected: str) -> None:
    assert parse_http_url(url, 6333) == expected
    assert parse_http_url(expected) == expected


def test_http_url_without_default_port_stays_as_it_is() -> None:
    assert parse_http_url("https://collector/otlp") == "https://collector/otlp"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:6333",
        "//host",
        "http://",
        "http:///path",
        "http://:6333",
        "http://host:",
        "http://host:/",
        "http://host:0",
        "http://host:65536",
        "http://host:port",
        "http://host:６333",
        "http://user@host",
        "http://user:password@host",
        "http://host?query=1",
        "http://host/?query",
        "http://host#fragment",
        "http://host/#fragment",
        "http://a b",
        "http://host/a b",
        "http://host\n",
        "http://hö.example",
        "http://::1:6333",
        "http://[::1",
        "http://[host]",
        "http://256.0.2.1",
        "http://h%6Fst",
        "http://host..",
        "http://.",
        "ftp://host",
        "https+unix://host",
    ],
)
def test_http_url_that_clients_would_misread_is_rejected(url: str) -> None:
    with pytest.raises(ValueError):
        parse_http_url(url, 6333)
