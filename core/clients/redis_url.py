"""Parse REDIS_URL: the URL of one server, or of a group of servers that Redis Sentinel monitors.

redis-py has URLs for single servers only. For Sentinel we use the form of other libraries:

    redis+sentinel://[user:password@]sentinel1[:26379],sentinel2[:26379]/service[/database][?options]

`rediss+sentinel` means TLS to Redis and to the Sentinels. `user` and `password` log in to Redis; the options
`sentinel_username` and `sentinel_password` log in to the Sentinels. All other options are redis-py's
(core.clients.redis_options).
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.retry import Retry

from core.clients import redis_options
from core.clients.redis_login import Login, Pool, SentinelPool
from core.clients.redis_sentinel import Sentinel

# Connecting sends only AUTH and SELECT. redis-py's defaults also send HELLO and CLIENT, which Redis 5 and proxies do
# not have, and which a user with minimal permissions may not send.
_DEFAULTS: dict[str, Any] = {"protocol": 2, "driver_info": None}
_SERVER, _SENTINEL = ("redis", "rediss", "unix"), ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*_SERVER, *_SENTINEL)
SENTINEL_PORT = 26379
_EXAMPLE = "redis+sentinel://sentinel1:26379,sentinel2:26379/service/0"
# The password may contain any character but "/", "?" and "#", so the last "@" ends it.
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://((?P<login>[^/?#]*)@)?(?P<hosts>[\w.,:%\[\]-]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
_NO_PORT = re.compile(":0*$")  # redis-py would use the default port


@dataclass(frozen=True)
class RedisUrl:
    """Keyword arguments for redis-py. If `sentinels` is empty, `options` name the server."""

    options: dict[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def pool(self, options: dict[str, Any]) -> ConnectionPool:
        """Return a connection pool for the server, or for the current primary of the group, without connecting.

        `options` are those of this URL, with the caller's changes.
        """
        options = _DEFAULTS | options
        login = Login(options)
        options["credential_provider"] = login
        if not self.sentinels:
            pool = Pool(**options)
            pool.logins = (login,)
            return pool
        # Sentinels are queried one after the other, so they share the timeout of one call. Without retries, because
        # redis-py's default of ten takes a minute if a Sentinel hangs.
        timeouts = {
            name: options[name] / len(self.sentinels)
            for name in ("socket_timeout", "socket_connect_timeout")
            if options.get(name)
        }
        sentinel_options = {
            **_DEFAULTS,
            **self.sentinel_options,
            **timeouts,
            "retry": Retry(NoBackoff(), 0),
            "redis_connect_func": options.get("redis_connect_func"),
        }
        sentinel_login = Login(sentinel_options)
        sentinel_options["credential_provider"] = sentinel_login
        sentinel = Sentinel(self.sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        sentinel_pool = SentinelPool(self.service, sentinel, **options)  # type: ignore[no-untyped-call]
        sentinel_pool.logins = (login, sentinel_login)
        return sentinel_pool


def parse(url: str) -> RedisUrl:
    """Return the parsed URL.

    Raises ValueError. Its message continues a sentence that starts with REDIS_URL, and quotes no part of the URL.
    """
    parts = _URL.fullmatch(url)
    if not parts:
        raise ValueError("is not a valid URL. Escape special characters in its parts as %XX.")
    if parts["scheme"] in _CLUSTER:
        raise ValueError(
            "points to a Redis Cluster, which is not supported. Use one server (redis://host:6379/0) "
            f"or a group that Redis Sentinel monitors ({_EXAMPLE})."
        )
    if parts["scheme"] not in SCHEMES:
        raise ValueError(f"must start with {' or '.join(scheme + '://' for scheme in SCHEMES)}.")
    redis_options.check_text(parts["query"])
    parsed = _parse_sentinel(parts) if parts["scheme"] in _SENTINEL else _parse_server(url, parts)
    try:
        parsed.pool(parsed.options).make_connection()  # does not connect, but validates the options
        redis_options.check_tls(parsed.options)
    except Exception:  # TypeError, ValueError or redis-py's own; some messages quote the value
        raise ValueError("has an option that redis-py does not accept. Remove it or correct its value.") from None
    return parsed


def _parse_server(url: str, parts: re.Match[str]) -> RedisUrl:
    path = parts["path"] or ""
    if parts["scheme"] == "unix":
        if not path.strip("/"):
            raise ValueError("has no socket path. Use the form unix:///run/redis/redis.sock?db=0")
    elif "," in parts["hosts"] + path:
        raise ValueError(f"has several hosts. Use one, or the Sentinels that monitor them ({_EXAMPLE}).")
    elif not parts["hosts"] and not path.strip("/"):
        raise ValueError("has no host. Use the form redis://host:6379/0")
    elif _NO_PORT.search(parts["hosts"]):
        raise ValueError("has an invalid port. Use a number from 1 to 65535.")
    else:
        _database(path.removeprefix("/"))
    return RedisUrl(_redis_py_options(url))


def _parse_sentinel(parts: re.Match[str]) -> RedisUrl:
    sentinels = tuple(_address(host) for host in parts["hosts"].split(","))
    service, _, database = (parts["path"] or "").removeprefix("/").partition("/")
    if not service:
        raise ValueError(f"has no service name. Use the form {_EXAMPLE}")
    query = parse_qsl(parts["query"] or "", keep_blank_values=True)
    redis_query = urlencode([pair for pair in query if pair[0] not in _SENTINEL_OPTIONS])
    scheme = parts["scheme"].removesuffix("+sentinel")
    options = _redis_py_options(f"{scheme}://{parts['login'] or ''}@/{_database(database)}?{redis_query}")
    if options.pop("connection_class", None):
        options["ssl"] = True
    shared = {name: value for name, value in options.items() if name.startswith(("ssl", "socket_", "protocol"))}
    credentials = {_SENTINEL_OPTIONS[name]: value for name, value in query if name in _SENTINEL_OPTIONS and value}
    return RedisUrl(options, sentinels, unquote(service), {**shared, **credentials})


def _address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = unquote(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if not host or _NO_PORT.search(text):
        raise ValueError(f"has an invalid Sentinel address. Use the form {_EXAMPLE}")
    return host, port or SENTINEL_PORT


def _database(text: str) -> str:
    """Return the text if it is a number or empty. redis-py would treat any other text as 0."""
    if not re.fullmatch("[0-9]{0,5}", text):
        raise ValueError("has an invalid database number. Use the form redis://host:6379/0")
    return text


def _redis_py_options(url: str) -> dict[str, Any]:
    try:
        # Undocumented. The public `ConnectionPool.from_url` does not return the options.
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError("has an invalid port or option. Escape special characters as %XX.") from None
    return options


def with_password(url: str, password: str | None) -> str:
    """Return the URL with the password. A URL that has one, or is not valid, is returned as it is."""
    parts = _URL.fullmatch(url)
    if not password or not parts:
        return url
    user, _, own_password = (parts["login"] or "").partition(":")
    if own_password or "password" in dict(parse_qsl(parts["query"])):
        return url
    return f"{parts['scheme']}://{user}:{quote(password, safe='')}@{url[parts.start('hosts') :]}"


def passwords(url: str) -> set[str]:
    """Return every password in the URL, quoted and unquoted, for redaction."""
    parts = _URL.fullmatch(url)
    if not parts:
        return set()
    quoted = [(parts["login"] or "").partition(":")[2]]
    for pair in (parts["query"] or "").split("&"):
        name, _, value = pair.partition("=")
        quoted += [value] if name.endswith("password") else []
    return {form for password in quoted for form in (password, unquote(password)) if form}


def location(url: str) -> str:
    """Return the hosts and the service, or the socket, of the URL, without credentials and options."""
    parts = _URL.fullmatch(url)
    if not parts:
        return "REDIS_URL"
    if parts["scheme"] == "unix":
        return unquote(parts["path"] or "")
    if parts["scheme"] in _SENTINEL:
        group = parse(url)
        sentinels = ", ".join(join_host_port(*sentinel) for sentinel in group.sentinels)
        return f"primary of {group.service}, Sentinels {sentinels}"
    options = parse(url).options
    return join_host_port(options.get("host", "localhost"), options.get("port", 6379))


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
