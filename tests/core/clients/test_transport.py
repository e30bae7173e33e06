"""Which connections count as protected by verified TLS."""

from typing import Any

import pytest

from core.clients import database_url, transport
from core.clients.transport import Transport

VERIFIED, UNVERIFIED, PLAIN, LOCAL = Transport.VERIFIED, Transport.UNVERIFIED, Transport.PLAIN, Transport.LOCAL


def test_words_of_the_contract_and_what_production_accepts() -> None:
    assert {kind.value: kind.is_safe for kind in Transport} == {
        "TLS, verified": True,
        "TLS, not verified": False,
        "plain text": False,
        "local": True,
    }


def parameters(url: str) -> dict[str, Any]:
    config = database_url.parse(url)
    options: dict[str, Any] = config["OPTIONS"]
    return options | ({"host": config["HOST"]} if config["HOST"] else {})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://db/name", PLAIN),
        ("postgres://db/name?sslmode=disable", PLAIN),
        ("postgres://db/name?sslmode=allow", PLAIN),
        ("postgres://db/name?sslmode=prefer", PLAIN),
        ("postgres://db/name?sslmode=require", UNVERIFIED),
        ("postgres://db/name?sslmode=verify-ca", UNVERIFIED),
        ("postgres://db/name?sslmode=verify-full", VERIFIED),
        ("postgres://db/name?sslrootcert=system", VERIFIED),
        ("postgres://db1,db2/name?sslmode=verify-full", VERIFIED),
        ("postgres://127.0.0.1,db2/name", PLAIN),
        ("postgres://127.0.0.1:1,[::1]:2,localhost:3/name", LOCAL),
        ("postgres://localhost/name?hostaddr=192.0.2.1", PLAIN),
        ("postgres://db/name?hostaddr=127.0.0.2", LOCAL),
        ("postgres://127.0.0.1,127.0.0.2/name?hostaddr=127.0.0.1,192.0.2.1", PLAIN),
        ("postgres://%2Frun%2Fpostgresql/name", LOCAL),
        ("postgres:///name", LOCAL),
        ("postgres://localhost.example.org/name", PLAIN),
        ("postgres://127.1/name", PLAIN),
    ],
)
def test_postgres(url: str, expected: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    assert transport.postgres(parameters(url)) is expected


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("postgres:///name", {"PGHOST": "db"}, PLAIN),
        ("postgres://localhost/name", {"PGHOSTADDR": "192.0.2.1"}, PLAIN),
        ("postgres://db/name", {"PGSSLMODE": "verify-full"}, VERIFIED),
        ("postgres://db/name?sslmode=require", {"PGSSLMODE": "verify-full"}, UNVERIFIED),
        ("postgres://db/name", {"PGSSLROOTCERT": "system"}, VERIFIED),
    ],
)
def test_environment_of_libpq(
    url: str, variables: dict[str, str], expected: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = parameters(url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert transport.postgres(found) is expected


def test_service_file_may_name_any_host_and_mode() -> None:
    assert transport.postgres({"host": "localhost", "service": "other"}) is PLAIN
    assert transport.postgres({"service": "other", "sslmode": "verify-full"}) is VERIFIED


@pytest.mark.parametrize(
    ("mode", "uses_tls", "expected"),
    [
        ("prefer", True, UNVERIFIED),
        ("prefer", False, PLAIN),
        ("verify-full", True, VERIFIED),
        ("verify-ca", True, UNVERIFIED),
    ],
)
def test_open_connection_to_postgres(mode: str, uses_tls: bool, expected: Transport) -> None:
    assert transport.postgres({"host": "db", "sslmode": mode}, uses_tls=uses_tls) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", PLAIN),
        ("redis://127.0.0.1:6379/0", LOCAL),
        ("redis://[::1]:6379/0", LOCAL),
        ("unix:///run/redis.sock", LOCAL),
        ("rediss://cache", VERIFIED),
        ("rediss://cache?ssl_cert_reqs=required", VERIFIED),
        ("rediss://cache?ssl_cert_reqs=optional", UNVERIFIED),
        ("rediss://cache?ssl_cert_reqs=none", UNVERIFIED),
        ("rediss://cache?ssl_check_hostname=no", UNVERIFIED),
        ("redis+sentinel://127.0.0.1/service", PLAIN),  # the primary may be anywhere
        ("rediss+sentinel://sentinel/service", VERIFIED),
        ("rediss+sentinel://sentinel/service?ssl_cert_reqs=none", UNVERIFIED),
    ],
)
def test_redis(url: str, expected: Transport) -> None:
    assert transport.redis(url) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, LOCAL),
        ("http://localhost.:6333", LOCAL),
        ("http://[::1]:6333", LOCAL),
        ("http://qdrant:6333", PLAIN),
        ("https://qdrant:6333", VERIFIED),
    ],
)
def test_qdrant(url: str | None, expected: Transport) -> None:
    assert transport.qdrant(url) is expected
