"""The client's address: every form that servers and proxies write, and what happens when there is none."""

import pytest
from django.test import RequestFactory
from pytest_django import Settings

from core.http import client_ip
from core.http.client_ip import client_address

PROXY = "10.0.0.1"
READABLE = {
    "203.0.113.9": "203.0.113.9",
    "  203.0.113.9\t": "203.0.113.9",
    "203.0.113.9:17085": "203.0.113.9",
    "203.0.113.9:0": "203.0.113.9",
    '"203.0.113.9"': "203.0.113.9",
    '"203.0.113.9:17085"': "203.0.113.9",
    "[203.0.113.9]": "203.0.113.9",
    "2001:db8::9": "2001:db8::9",
    "2001:DB8:0:0::0009": "2001:db8::9",
    '"2001:db8::9"': "2001:db8::9",
    "[2001:db8::9]": "2001:db8::9",
    "[2001:db8::9]:443": "2001:db8::9",
    '"[2001:db8::9]:443"': "2001:db8::9",
    "::ffff:203.0.113.9": "203.0.113.9",
    "::FFFF:cb00:7109": "203.0.113.9",
    "[::ffff:203.0.113.9]:443": "203.0.113.9",
    "fe80::1%eth0": "fe80::1",
    "[fe80::1%25eth0]:443": "fe80::1",
    "198.51.100.1, 203.0.113.9": "203.0.113.9",
    "198.51.100.1,203.0.113.9:17085": "203.0.113.9",
    "unknown, 203.0.113.9": "203.0.113.9",
    ", 203.0.113.9": "203.0.113.9",
    "<script>,'\"%s,203.0.113.9": "203.0.113.9",
}
UNREADABLE = [
    "unknown",
    '"unknown"',
    "_hidden",
    "_hidden:17085",
    "unknown:17085",
    "localhost",
    "203.0.113.9, unknown",
    "203.0.113.9,",  # an empty element is what the proxy appended; the element before it may be forged
    "203.0.113.9, ,",
    '"',
    '""',
    "[]",
    "[]:443",
    ":443",
    "203.0.113",
    "203.0.113.09",
    "203.0.113.9.1",
    "203.0.113.256",
    "203.0.113.9:",
    "203.0.113.9:port",
    "203.0.113.9:123456",
    "203.0.113.9/24",
    "203.0.113.9 198.51.100.1",
    "3405803785",
    "0xcb007109",
    "٢٠٣.0.113.9",
    "２０３.0.113.9",
    "203.0.113.9:１",
    "2001:db8::9::1",
    "2001:db8:0:0:0:0:0:9:443",
    "[2001:db8::9",
    "2001:db8::9]",
    "[2001:db8::9]443",
    "for=203.0.113.9",
    "203.0.113.9\x00",
    "%eth0",
    "9" * 10_000,
    "[" * 10_000,
]


@pytest.fixture
def behind_proxy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.BEHIND_PROXY = True
    monkeypatch.setattr(client_ip, "_warnings", dict(client_ip._warnings))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.msg["event"] for record in caplog.records]  # type: ignore[index]  # structlog logs a dictionary


@pytest.mark.parametrize(("header", "address"), READABLE.items())
def test_reads_the_address_that_the_proxy_appended(
    rf: RequestFactory, behind_proxy: None, caplog: pytest.LogCaptureFixture, header: str, address: str
) -> None:
    assert client_address(rf.get("/", REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=header)) == address
    assert warnings(caplog) == []


@pytest.mark.parametrize("header", UNREADABLE, ids=lambda header: header[:30])
def test_unreadable_header_counts_as_the_proxy_and_is_not_logged(
    rf: RequestFactory, behind_proxy: None, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    assert client_address(rf.get("/", REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=header)) == PROXY
    (warning,) = warnings(caplog)
    assert warning.startswith("The last element of the X-Forwarded-For header is not an IP address.")
    assert "unset BEHIND_PROXY" in warning
    assert not caplog.records[0].args


def test_warns_once_per_process_and_problem(
    rf: RequestFactory, behind_proxy: None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert client_address(rf.get("/", REMOTE_ADDR=PROXY)) == PROXY
        assert client_address(rf.get("/", REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR=" ")) == PROXY
        assert client_address(rf.get("/", REMOTE_ADDR=PROXY, HTTP_X_FORWARDED_FOR="unknown")) == PROXY
    missing, unreadable = warnings(caplog)
    assert "is missing" in missing
    assert "is not an IP address" in unreadable


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8::9", "2001:db8::9"),
        ("::ffff:127.0.0.1", "127.0.0.1"),  # an IPv4 client of `--bind [::]:8000`
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),  # a Unix socket
        ("unknown", ""),
    ],
)
def test_reads_the_address_of_the_connection(
    rf: RequestFactory, caplog: pytest.LogCaptureFixture, remote: str, address: str
) -> None:
    assert client_address(rf.get("/", REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR="198.51.100.1")) == address
    assert warnings(caplog) == []
