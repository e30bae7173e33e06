"""REDIS_URL: valid forms, and errors that do not quote the URL."""

from typing import Any

import pytest
from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from core.clients import redis_url

SECRET = "not-to-be-shown"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", {"host": "host"}),
        ("redis://host/", {"host": "host"}),
        ("redis://host:1/2", {"host": "host", "port": 1, "db": 2}),
        ("redis://:a,b:c@host/0", {"host": "host", "password": "a,b:c", "db": 0}),
        ("redis://me:a%2Fb%40c%25%23@[::1]:7/0", {"host": "::1", "port": 7, "username": "me", "password": "a/b@c%#"}),
        ("redis:///3", {"db": 3}),
        ("redis://host?db=4&socket_timeout=0.5", {"host": "host", "db": 4, "socket_timeout": 0.5}),
        ("rediss://host?ssl_cert_reqs=none", {"connection_class": SSLConnection, "ssl_cert_reqs": "none"}),
        ("unix://:a,b@/run/a,b.sock?db=1", {"path": "/run/a,b.sock", "password": "a,b", "db": 1}),
        ("unix:///s", {"path": "/s", "connection_class": UnixDomainSocketConnection}),
    ],
)
def test_parses_server_url(url: str, expected: dict[str, object]) -> None:
    parsed = redis_url.parse(url)
    assert parsed.sentinels == ()
    assert {name: parsed.options.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "expected", "sentinel_expected"),
    [
        ("redis+sentinel://s1/m", [("s1", 26379)], "m", {}, {}),
        ("redis+sentinel://s1,s2:2,s3/m/", [("s1", 26379), ("s2", 2), ("s3", 26379)], "m", {}, {}),
        ("redis+sentinel://[::1],[fe80::2]:3/m/5", [("::1", 26379), ("fe80::2", 3)], "m", {"db": 5}, {}),
        ("redis+sentinel://s1/My%2Fgroup%201/0", [("s1", 26379)], "My/group 1", {"db": 0}, {}),
        (
            "redis+sentinel://me:a,b:c%40%2F@s1,s2/m?sentinel_username=you&sentinel_password=d,e%26%2B&socket_timeout=3",
            [("s1", 26379), ("s2", 26379)],
            "m",
            {"username": "me", "password": "a,b:c@/", "socket_timeout": 3.0},
            {"username": "you", "password": "d,e&+", "socket_timeout": 3.0},
        ),
        (
            "rediss+sentinel://:a@s1/m?ssl_ca_certs=/ca,1.pem&client_name=x",
            [("s1", 26379)],
            "m",
            {"ssl": True, "ssl_ca_certs": "/ca,1.pem", "password": "a", "client_name": "x"},
            {"ssl": True, "ssl_ca_certs": "/ca,1.pem"},
        ),
    ],
)
def test_parses_sentinel_url(
    url: str,
    sentinels: list[tuple[str, int]],
    service: str,
    expected: dict[str, object],
    sentinel_expected: dict[str, object],
) -> None:
    parsed = redis_url.parse(url)
    assert list(parsed.sentinels) == sentinels
    assert parsed.service == service
    assert {name: parsed.options.get(name) for name in expected} == expected
    assert parsed.sentinel_options == sentinel_expected
    pool = parsed.pool(parsed.options)
    assert isinstance(pool, SentinelConnectionPool)
    tls = url.startswith("rediss")
    assert pool.connection_class is (SentinelManagedSSLConnection if tls else SentinelManagedConnection)
    assert [login.current for login in pool.logins] == [  # type: ignore[attr-defined]
        tuple(options[name] for name in ("username", "password") if name in options)
        for options in (expected, sentinel_expected)
    ]


def test_sentinels_share_the_timeout_without_retries() -> None:
    parsed = redis_url.parse("redis+sentinel://s1,s2,s3,s4/m?socket_timeout=2")
    pool = parsed.pool({"socket_connect_timeout": 1, **parsed.options})
    for sentinel in pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
        options = sentinel.connection_pool.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.5, 0.25)
        assert options["retry"].get_retries() == 0
    connection: Any = pool.make_connection()
    assert connection.retry.get_retries() == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+cluster://:{}@a:1,b:2/0", "Redis Cluster, which is not supported. Use one server (redis://"),
        ("rediss+cluster://:{}@a", "Redis Cluster, which is not supported"),
        ("redis://:{}@a,b:2/0", "several hosts"),
        ("redis://:{}@a:1,redis://:{}@b:2/0", "several hosts"),
        ("redis://:{}@a/0,redis://:{}@b/0", "several hosts"),
        ("rediss://a:1,b:2", "several hosts"),
        ("sentinel://{}", "redis+sentinel://"),
        ("http://:{}@a", "must start with redis://"),
        ("{}", "is not a valid URL"),
        ("redis://:{}@host:port", "port"),
        ("redis://:{}@host:99999", "port"),
        ("redis://:{}@host:", "port"),
        ("redis://:{}@host:0", "port"),
        ("rediss://:{}@[::1]:00/0", "port"),
        ("redis://:{}@one two/0", "is not a valid URL"),
        ("redis://:{}@one;two/0", "is not a valid URL"),
        ("redis://host=one", "is not a valid URL"),
        ("redis://:a#{}@host/0", "is not a valid URL"),
        ("redis://:12/{}@host/0", "invalid database number"),
        ("redis://:{}@host/zero", "invalid database number"),
        ("redis://:{}@host/-1", "invalid database number"),
        ("redis://:{}@host/" + "9" * 5000, "invalid database number"),
        ("redis://", "has no host"),
        ("unix://:{}@/", "has no socket path"),
        ("redis://:{}@host?nonsense={}", "option"),
        ("redis://:{}@host?ssl_ca_certs={}", "option"),
        ("redis://:{}@host?db={}", "option"),
        ("rediss://:{}@host?ssl_cert_reqs={}", "option"),
        ("redis+sentinel://:{}@s1,s2", "has no service name"),
        ("redis+sentinel://:{}@s1/", "has no service name"),
        ("redis+sentinel://:{}@s1,/m", "invalid Sentinel address"),
        ("redis+sentinel:///m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@s1:port/m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@s1:0/m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@s1:1,s2:/m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@::1/m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@[::1/m", "invalid Sentinel address"),
        ("redis+sentinel://:{}@s1/m/zero", "invalid database number"),
        ("redis+sentinel://:{}@s1/m/0/1", "invalid database number"),
        ("redis+sentinel://:{}@s1/m?sentinel_nonsense={}", "option"),
        ("redis+sentinel://:{}@s1/m?ssl_ca_certs={}", "option"),
        ("redis+sentinel://:{}@s1/m?socket_timeout={}", "option"),
        ("rediss+sentinel://:{}@s1/m?ssl_cert_reqs={}", "option"),
    ],
)
def test_error_does_not_quote_the_url(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        redis_url.parse(url.replace("{}", SECRET))
    assert message in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:1/2", "redis://:p%40%2F%25@host:1/2"),
        ("redis://user@host", "redis://user:p%40%2F%25@host"),
        ("unix:///run/redis.sock?db=1", "unix://:p%40%2F%25@/run/redis.sock?db=1"),
        ("rediss+sentinel://one,two/service", "rediss+sentinel://:p%40%2F%25@one,two/service"),
        ("redis://:own@host", "redis://:own@host"),
        ("redis://host?password=own", "redis://host?password=own"),
        ("not a url", "not a url"),
    ],
)
def test_password_is_added_to_a_url_that_has_none(url: str, expected: str) -> None:
    assert redis_url.with_password(url, "p@/%") == expected
    assert redis_url.with_password(url, None) == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:a,b%2Fc@host/0", {"a,b%2Fc", "a,b/c"}),
        ("unix:///s?password=a%2Fb", {"a%2Fb", "a/b"}),
        ("redis+sentinel://me:a@s1,s2/m?sentinel_username=you&sentinel_password=b%2C", {"a", "b%2C", "b,"}),
        ("rediss://host?ssl_password=c", {"c"}),
        ("redis://host/0", set()),
    ],
)
def test_passwords(url: str, expected: set[str]) -> None:
    assert redis_url.passwords("not a url") == set()
    assert redis_url.passwords(url) == expected
    assert not any(secret in repr(redis_url.parse(url)) for secret in expected if len(secret) > 1)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:pw@host", "host:6379"),
        ("redis://:pw@[::1]:7/0", "[::1]:7"),
        ("unix://:pw@/run/a%20b", "/run/a b"),
        ("redis+sentinel://:pw@s1,[::2]:5/m", "primary of m, Sentinels s1:26379, [::2]:5"),
        ("pw is not a url", "REDIS_URL"),
        ("unix://:pw@", ""),
    ],
)
def test_location_has_no_credentials(url: str, expected: str) -> None:
    assert redis_url.location(url) == expected
