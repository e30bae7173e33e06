"""Whether the connections to a dependency are protected by verified TLS, as far as its URL decides that.

Anyone in the network path can read and change a connection that is not. TLS without a verified certificate, or without
a verified name in it (`sslmode=verify-ca`), protects against listening only, because it accepts any server.
"""

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from psycopg import pq
from redis.connection import SSLConnection, UnixDomainSocketConnection

from core.clients import redis_url


class Transport(StrEnum):
    VERIFIED = "TLS, verified"
    UNVERIFIED = "TLS, not verified"
    PLAIN = "plain text"
    LOCAL = "local"  # a socket or loopback, which never leave the machine

    @property
    def is_safe(self) -> bool:
        return self in (Transport.VERIFIED, Transport.LOCAL)


def is_local(host: str) -> bool:
    """Return whether a host is a socket or a loopback address. Empty means libpq's default socket."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def postgres(parameters: Mapping[str, Any], *, uses_tls: bool | None = None) -> Transport:
    """Return the transport of libpq's parameters, with the defaults that PG* environment variables set.

    `uses_tls` is what an open connection does. Without one, the weakest mode that `sslmode` allows counts, because
    someone in the network path decides: `prefer`, the default, gives up TLS if the server seems not to support it.
    """
    defaults = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
    mode = str(parameters.get("sslmode", ""))
    if not (parameters.get("service") or defaults["service"]):
        values = {**defaults, **parameters}
        hosts, addresses = (str(values[name]).split(",") for name in ("host", "hostaddr"))
        # libpq connects to the address if there is one. A URL has one for each host or none.
        if all(map(is_local, addresses if any(addresses) else hosts)):
            return Transport.LOCAL
        # libpq verifies by default with the system's certificates, and refuses weaker modes.
        mode = mode or ("verify-full" if values.get("sslrootcert") == "system" else defaults["sslmode"])
    # The file of a service may name any host and any mode; only a mode in the URL overrides it.
    if uses_tls is None:
        uses_tls = mode in ("require", "verify-ca", "verify-full")
    if not uses_tls:
        return Transport.PLAIN
    return Transport.VERIFIED if mode == "verify-full" else Transport.UNVERIFIED


def redis(url: str) -> Transport:
    parsed = redis_url.parse(url)
    options, connection_class = parsed.options, parsed.options.get("connection_class")
    if connection_class is UnixDomainSocketConnection:
        return Transport.LOCAL
    # Sentinels announce the address of the primary, so it may be on any machine.
    if not parsed.sentinels and is_local(options.get("host", "localhost")):
        return Transport.LOCAL
    if not (connection_class is SSLConnection or options.get("ssl")):
        return Transport.PLAIN
    # redis-py verifies by default.
    verifies = options.get("ssl_cert_reqs", "required") == "required" and options.get("ssl_check_hostname", True)
    return Transport.VERIFIED if verifies else Transport.UNVERIFIED


def qdrant(url: str | None) -> Transport:
    if url is None:  # the client's local mode
        return Transport.LOCAL
    parts = urlsplit(url)
    if is_local((parts.hostname or "").removesuffix(".")):
        return Transport.LOCAL
    return Transport.VERIFIED if parts.scheme == "https" else Transport.PLAIN
