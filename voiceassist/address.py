"""The address in BIND, such as 127.0.0.1:8000 or [::]:8000."""

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
_WILDCARDS = ("0.0.0.0", "::")


def parse(address: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port. Raises ValueError unless the address is HOST:PORT."""
    match = _HOST_AND_PORT.fullmatch(address)
    if not match:
        raise ValueError("not HOST:PORT with an IPv6 address in brackets")
    ipv6, host, port = match[1], match[2], int(match[3])
    if ipv6:
        host = str(ipaddress.IPv6Address(ipv6))
    elif host.replace(".", "").isdigit():
        ipaddress.IPv4Address(host)
    if not 1 <= port <= 65535:
        raise ValueError("not a port")
    return host, port


def url(address: str) -> str:
    """Return the URL at which this machine reaches a server that listens on the address."""
    host, port = parse(address)
    if host in _WILDCARDS:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_available(address: str) -> None:
    """Exit with the error and a hint if a server could not listen on the address."""
    host, port = parse(address)
    try:
        family, kind, protocol, _, socket_address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(socket_address)
    except OSError as error:
        hint = "Set BIND to another address."
        if error.errno == errno.EADDRINUSE:
            hint = "Stop the program that uses it, or set BIND to another address."
        raise SystemExit(f"make run: can't listen on {address} ({error.strerror}). {hint}") from None


def print_urls(address: str, paths: Iterable[str]) -> None:
    for path in paths:
        print(f"  {url(address)}/{path}")
