"""The client's IP address."""

import re
from ipaddress import IPv6Address, ip_address

import structlog
from django.conf import settings
from django.http import HttpRequest

log = structlog.stdlib.get_logger("voiceassist.client_ip")

# "[IPv6]", "[IPv6]:port" or "IPv4:port". An IPv6 address with a port always has brackets (RFC 7239, section 6.2).
_NODE = re.compile(r"\[(?P<ipv6>[^\]]*)\](?::[0-9]{1,5})?|(?P<ipv4>[0-9.]+):[0-9]{1,5}")

_ADVICE = (
    "The proxy's address counts as the client's, so a few failed logins lock everyone out. "
    "Let the proxy append the client's address to X-Forwarded-For, or unset BEHIND_PROXY."
)
_warnings = {  # a warning is removed when it is logged, so that each process logs it once
    "missing": f"The X-Forwarded-For header is missing. {_ADVICE}",
    "unreadable": f"The last element of the X-Forwarded-For header is not an IP address. {_ADVICE}",
}


def client_address(request: HttpRequest) -> str:
    """Return the client's IP address, or "" if it is unknown, as on a Unix socket.

    With `BEHIND_PROXY` exactly one trusted proxy is in front, which appends the client's address to X-Forwarded-For.
    Clients can forge all earlier addresses, and without a proxy the whole header. If the proxy appended none, the
    proxy's address is returned.
    """
    if settings.BEHIND_PROXY:
        header = request.META.get("HTTP_X_FORWARDED_FOR", "")
        try:
            return parse_address(header.rpartition(",")[2])
        except ValueError:
            _warn_once("unreadable" if header.strip() else "missing")
    try:
        return parse_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return ""


def parse_address(text: str) -> str:
    """Return the canonical form of an address as servers and proxies write it. Raise ValueError if it is invalid.

    Quotes, brackets, a port and the zone of a link-local address are removed. A mapped IPv4 address becomes IPv4, so
    that a client has the same address whether the socket is IPv4 or IPv6.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if node := _NODE.fullmatch(text):
        text = node["ipv6"] or node["ipv4"] or ""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def _warn_once(problem: str) -> None:
    if message := _warnings.pop(problem, None):
        log.warning(message)
