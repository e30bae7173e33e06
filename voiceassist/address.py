"""The address in BIND, such as 127.0.0.1:8000 or [::]:8000.

`make run` starts this module as a program. It fails if the address is in use, and prints the URL of each path that it
is given: `python -m voiceassist.address health ready`.
"""

import ipaddress
import re
import socket
import sys

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")
_WILDCARDS = ("0.0.0.0", "::")


def parse(address: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port. Raises ValueError for anything else than HOST:PORT."""
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


def main(paths: list[str]) -> None:
    from voiceassist.settings import BIND

    host, port = parse(BIND)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        raise SystemExit(
            f"make run: can't listen on {BIND} ({error.strerror}). Stop what uses it, or set BIND to another address."
        ) from None
    for path in paths:
        print(f"  {url(BIND)}/{path}")


if __name__ == "__main__":
    main(sys.argv[1:])
