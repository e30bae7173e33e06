"""Reads REDIS_URL: the URL of one server, or of a group of servers that Redis Sentinel watches.

redis-py parses the first kind itself and has no URL for the second, which is written as other libraries write it:

    redis+sentinel://[user:password@]sentinel1[:26379],sentinel2[:26379]/service[/database][?options]

`rediss+sentinel` means TLS to Redis and to the Sentinels. User and password are those of Redis, the Sentinels' own are
the options `sentinel_username` and `sentinel_password`. All other options are redis-py's, as in its own URLs.
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from core.clients.redis_sentinel import Sentinel

_SINGLE, _SENTINEL = ("redis", "rediss", "unix"), ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
SCHEMES = (*_SINGLE, *_SENTINEL)
SENTINEL_PORT = 26379
_EXAMPLE = "redis+sentinel://sentinel1:26379,sentinel2:26379/service/0"
# The password may hold anything but "/", "?" and "#", so the last "@" ends it.
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://((?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)
_OWN = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True)
class RedisUrl:
    """What a URL says, as keyword arguments of redis-py. Without `sentinels` the options name the server."""

    options: dict[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def pool(self, options: dict[str, Any]) -> ConnectionPool:
        """Returns a pool of connections to the server, or to whichever server is the group's primary.

        `options` are this URL's, with what the caller adds or replaces. Nothing is connected yet.
        """
        if not self.sentinels:
            return ConnectionPool(**options)
        # The Sentinels are asked one after the other. Together they get the time that Redis gets, and each is asked
        # once: without this argument redis-py retries ten times, which takes a minute when a Sentinel is frozen.
        timeouts = {
            name: options[name] / len(self.sentinels)
            for name in ("socket_timeout", "socket_connect_timeout")
            if options.get(name)
        }
        sentinel_options = {**self.sentinel_options, **timeouts, "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(self.sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        return SentinelConnectionPool(self.service, sentinel, **options)  # type: ignore[no-untyped-call]


def parse(url: str) -> RedisUrl:
    """Returns what the URL says. Raises ValueError with the end of a sentence that quotes nothing of it."""
    parts = _URL.fullmatch(url)
    if not parts:
        raise ValueError("is not a URL: escape special characters in its parts as %XX")
    if parts["scheme"] in _CLUSTER:
        raise ValueError(
            "names a Redis Cluster, which is not supported: use one server (redis://host:6379/0) "
            f"or a group that Redis Sentinel watches ({_EXAMPLE})"
        )
    if parts["scheme"] not in SCHEMES:
        raise ValueError(f"must be a URL that starts with {' or '.join(scheme + '://' for scheme in SCHEMES)}")
    parsed = _parse_group(parts) if parts["scheme"] in _SENTINEL else _parse_server(url, parts)
    try:
        parsed.pool(parsed.options).make_connection()  # connects nothing, but refuses what redis-py does not take
    except Exception:  # redis-py raises TypeError, ValueError or its own, some of which quote the value
        raise ValueError("has an option that redis-py does not take") from None
    return parsed


def _parse_server(url: str, parts: re.Match[str]) -> RedisUrl:
    path = parts["path"] or ""
    if parts["scheme"] == "unix":
        if not path.strip("/"):
            raise ValueError("names no socket: unix:///run/redis/redis.sock?db=0")
    elif "," in parts["hosts"] + path:
        raise ValueError(f"names several hosts: use one, or the Sentinels that watch them ({_EXAMPLE})")
    elif not parts["hosts"] and not path.strip("/"):
        raise ValueError("names no host: redis://host:6379/0")
    else:
        _database(path.removeprefix("/"))
    return RedisUrl(_redis_py(url))


def _parse_group(parts: re.Match[str]) -> RedisUrl:
    sentinels = tuple(_address(host) for host in parts["hosts"].split(","))
    service, _, database = (parts["path"] or "").removeprefix("/").partition("/")
    if not service:
        raise ValueError(f"names no service: {_EXAMPLE}")
    query = parse_qsl(parts["query"] or "", keep_blank_values=True)
    rest = urlencode([pair for pair in query if pair[0] not in _OWN])
    scheme = parts["scheme"].removesuffix("+sentinel")
    options = _redis_py(f"{scheme}://{parts['login'] or ''}@/{_database(database)}?{rest}")
    if options.pop("connection_class", None):
        options["ssl"] = True
    shared = {name: value for name, value in options.items() if name.startswith(("ssl", "socket_"))}
    own = {_OWN[name]: value for name, value in query if name in _OWN and value}
    return RedisUrl(options, sentinels, unquote(service), {**shared, **own})


def _address(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = unquote(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    if not host:
        raise ValueError(f"names a Sentinel that is not host:port: {_EXAMPLE}")
    return host, port or SENTINEL_PORT


def _database(text: str) -> str:
    """Returns the number. redis-py would take anything else for 0."""
    if not re.fullmatch("[0-9]*", text):
        raise ValueError("names a database that is not a number: redis://host:6379/0")
    return text


def _redis_py(url: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError("has a port or an option that redis-py can't read: escape special characters as %XX") from None
    return options


def secrets(url: str) -> set[str]:
    """Returns every password in the URL as it is written and as it is meant."""
    parts = _URL.fullmatch(url)
    if not parts:
        return set()
    passwords = [(parts["login"] or "").partition(":")[2]]
    for pair in (parts["query"] or "").split("&"):
        name, _, value = pair.partition("=")
        passwords += [value] if name.endswith("password") else []
    return {form for password in passwords for form in (password, unquote(password)) if form}


def where(url: str) -> str:
    """Returns where the URL points to, without credentials and options."""
    parts = _URL.fullmatch(url)
    if not parts:
        return "REDIS_URL"
    if parts["scheme"] == "unix":
        return unquote(parts["path"] or "")
    if parts["scheme"] in _SENTINEL:
        group = parse(url)
        return f"primary of {group.service}, Sentinels {', '.join(join(*sentinel) for sentinel in group.sentinels)}"
    options = parse(url).options
    return join(options.get("host", "localhost"), options.get("port", 6379))


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
