"""Every option of REDIS_URL that is accepted works, and others are rejected at the start."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from django.core.cache import cache as django_cache

from core.clients import redis_options, redis_url
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS
from tests.support.proxy import TlsProxy
from tests.support.readiness import RedisUrl, check

cache: Any = django_cache

PLAIN = {
    "client_name": "x",
    "db": "1",
    "encoding": "UTF-8",
    "health_check_interval": "1",
    "max_connections": "1",
    "password": "",  # filled in below
    "protocol": "2",
    "retry_on_timeout": "true",
    "socket_connect_timeout": "0.5",
    "socket_keepalive": "no",
    "socket_read_size": "1024",
    "socket_timeout": "2.5",
    "username": "default",
}
TLS = {
    "ssl_ca_certs": "{folder}/ca.pem",
    "ssl_ca_data": "",  # filled in below
    "ssl_ca_path": "{folder}",
    "ssl_cert_reqs": "none",
    "ssl_certfile": "{folder}/client.pem",
    "ssl_check_hostname": "false",
    "ssl_ciphers": "ECDHE+AESGCM",
    "ssl_exclude_verify_flags": "[VERIFY_CRL_CHECK_LEAF]",
    "ssl_include_verify_flags": "VERIFY_X509_TRUSTED_FIRST, VERIFY_X509_PARTIAL_CHAIN",
    "ssl_keyfile": "{folder}/client.pem",
    "ssl_min_version": "772",
    "ssl_password": "x",
}


def test_tables_have_every_option() -> None:
    sentinel = {"sentinel_username", "sentinel_password"}  # tests/core/clients/test_redis_sentinel.py uses them
    assert PLAIN.keys() | TLS.keys() | sentinel == redis_options.OPTIONS.keys()


def works() -> None:
    cache.set("key", {"é": 1}, 10)
    assert cache.get("key") == {"é": 1}
    result = check("redis", 5 * SLOWNESS)
    assert result.healthy, result


@pytest.mark.parametrize("name", PLAIN)
def test_cache_and_readiness_work_with_each_option(name: str, use_url: RedisUrl, servers: Servers) -> None:
    url, value = servers.redis.url, PLAIN[name]
    if name == "password":
        url, value = url.replace(f":{servers.redis.quoted}@", ""), servers.redis.password
    use_url(f"{url}?{name}={quote(value)}")
    works()


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ssl.SSLContext]]:
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    yield folder, context


@pytest.mark.parametrize("name", TLS)
def test_cache_and_readiness_work_with_each_option_of_tls(
    name: str, use_url: RedisUrl, servers: Servers, tls_folder: tuple[Path, ssl.SSLContext]
) -> None:
    folder, context = tls_folder
    options = {"ssl_ca_certs": "{folder}/ca.pem"} if name not in ("ssl_ca_data", "ssl_cert_reqs") else {}
    options |= {name: TLS[name]} | ({"ssl_certfile": TLS["ssl_certfile"]} if name == "ssl_keyfile" else {})
    if name == "ssl_ca_data":
        options[name] = (folder / "ca.pem").read_text()
    query = "&".join(f"{key}={quote(value.format(folder=folder))}" for key, value in options.items())
    with TlsProxy(servers.redis.port, context) as front:
        use_url(f"rediss://:{servers.redis.quoted}@127.0.0.1:{front.port}/0?{query}")
        works()
        assert front.tls_connections >= 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("socket_timout=5", "unknown option. Use only: client_name, "),
        ("timeout=5", "unknown option"),
        ("decode_responses=true", "unknown option"),
        ("decode_responses=false", "unknown option"),
        ("retry_on_error=TimeoutError", "unknown option"),
        ("credential_provider=x", "unknown option"),
        ("parser_class=x", "unknown option"),
        ("host=other", "unknown option"),
        ("port=1", "unknown option"),
        ("client_name=a%20b", "sets the option client_name to an invalid value"),
        ("db=x", "sets the option db to an invalid value"),
        ("db=-1", "sets the option db to an invalid value"),
        ("db=" + "9" * 5000, "sets the option db to an invalid value"),
        ("encoding=utf-16", "sets the option encoding to an invalid value"),
        ("health_check_interval=-1", "sets the option health_check_interval to an invalid value"),
        ("max_connections=-1", "sets the option max_connections to an invalid value"),
        ("max_connections=0", "sets the option max_connections to an invalid value"),
        ("protocol=9", "sets the option protocol to an invalid value"),
        ("retry_on_timeout=ture", "sets the option retry_on_timeout to an invalid value"),
        (
            "socket_keepalive=off",
            "sets the option socket_keepalive to an invalid value",
        ),  # redis-py would understand true
        ("socket_read_size=0", "sets the option socket_read_size to an invalid value"),
        ("socket_timeout=abc", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=0", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=.", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=.0", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=0.0", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=-1", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=nan", "sets the option socket_timeout to an invalid value"),
        ("socket_timeout=1e300", "sets the option socket_timeout to an invalid value"),
        ("socket_connect_timeout=inf", "sets the option socket_connect_timeout to an invalid value"),
        ("socket_timeout=1&socket_timeout=x", "sets the option socket_timeout to an invalid value"),
        ("sentinel_password=x", "does not accept"),  # only for redis+sentinel
        ("ssl_cert_reqs=none", "does not accept"),  # only for rediss
        ("ssl_ca_certs=/ca.pem", "does not accept"),
    ],
)
def test_other_option_is_rejected(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        redis_url.parse(f"redis://host/0?{query}")


@pytest.mark.parametrize("url", ["redis://host/0", "redis+sentinel://host/service/0"])
def test_empty_options_are_ignored(url: str) -> None:
    query = "password=&username&client_name=&socket_timeout=&max_connections="
    assert redis_url.parse(f"{url}?{query}") == redis_url.parse(url)


@pytest.mark.parametrize(("text", "seconds"), [(".5", 0.5), ("5.", 5.0), ("005", 5.0)])
def test_seconds_may_lack_digits_on_one_side(text: str, seconds: float) -> None:
    assert redis_url.parse(f"redis://host/0?socket_timeout={text}").options["socket_timeout"] == seconds


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("ssl_cert_reqs=maybe", "sets the option ssl_cert_reqs to an invalid value"),
        ("ssl_check_hostname=ture", "sets the option ssl_check_hostname to an invalid value"),
        ("ssl_min_version=1", "sets the option ssl_min_version to an invalid value"),
        ("ssl_ciphers=x", "does not accept"),
        ("ssl_ca_data=x", "does not accept"),
        ("ssl_include_verify_flags=x", "invalid port or option"),
        ("ssl_validate_ocsp=true", "unknown option"),
    ],
)
@pytest.mark.parametrize("url", ["rediss://host/0", "rediss+sentinel://host/service/0"])
def test_other_option_of_tls_is_rejected(url: str, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        redis_url.parse(f"{url}?{query}")
