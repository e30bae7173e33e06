"""The grammar of hosts, origins and HTTP URLs in environment variables.

Values outside this grammar would be accepted by Django and match no request, or fail at every call.
"""

import re
from ipaddress import IPv4Address, IPv6Address

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HOST = r"(?P<host>\[[^]]*\]|[^][/?#@:\s]+)(:(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>https?)://(?P<wildcard>\*\.)?{_HOST}")
_HTTP_URL = re.compile(rf"(?P<scheme>(?i:https?))://{_HOST}(?P<path>/[^?#\s]*)?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_host(text: str) -> bool:
    """Return whether the text is a host name in lower case, an IPv4 address, or an IPv6 address in brackets.

    International names have to be in punycode, because browsers send them so.
    """
    try:
        if text.startswith("[") and text.endswith("]"):
            return "%" not in text and bool(IPv6Address(text[1:-1]))
        if text.rpartition(".")[2].isdigit():  # as browsers do: https://url.spec.whatwg.org/#ends-in-a-number-checker
            return bool(IPv4Address(text))
    except ValueError:
        return False
    return len(text) <= 253 and bool(_HOST_NAME.fullmatch(text))


def parse_allowed_host(text: str) -> str:
    """Return an item of ALLOWED_HOSTS in lower case. Raises ValueError."""
    host = _lower(text)
    if host != "*" and not is_host(f"x{host}" if host.startswith(".") else host):
        raise ValueError("not a host")
    return host


def parse_origin(text: str) -> str:
    """Return an item of CSRF_TRUSTED_ORIGINS as browsers send it, in lower case. Raises ValueError.

    Browsers omit the default port, and Django compares the text.
    """
    match = _ORIGIN.fullmatch(_lower(text))
    if not match or match["port"] == _DEFAULT_PORTS[match["scheme"]]:
        raise ValueError("not an origin")
    _check(f"x.{match['host']}" if match["wildcard"] else match["host"], match["port"])
    return match[0]


def parse_http_url(text: str, default_port: int | None = None) -> str:
    """Return the URL with scheme and host in lower case, and with `default_port` if it has no port. Raises ValueError.

    Queries and fragments are rejected, because clients ignore them. So are credentials, which QDRANT_API_KEY and
    OTEL_EXPORTER_OTLP_HEADERS contain.
    """
    match = _HTTP_URL.fullmatch(text)
    if not match:
        raise ValueError("not an HTTP URL")
    scheme, host = _lower(match["scheme"]), _lower(match["host"])
    port = match["port"] or default_port
    # Names of containers may contain underscores. A final dot keeps resolvers from trying search domains.
    _check(host.replace("_", "x").removesuffix("."), port)
    return f"{scheme}://{host}{f':{port}' if port else ''}{match['path'] or ''}"


def _lower(text: str) -> str:
    return text.encode("ascii").lower().decode()  # raises UnicodeEncodeError, which is a ValueError


def _check(host: str, port: str | int | None) -> None:
    if not is_host(host) or not 1 <= int(port or 1) <= 65535:
        raise ValueError("not a host or not a port")
