"""The client's IP address."""

from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Return the client's IP address, or "" if it is unknown, as on a Unix socket.

    With `BEHIND_PROXY` exactly one trusted proxy is in front, which appends the client's address to X-Forwarded-For.
    Clients can forge all earlier addresses, and without a proxy the whole header.
    """
    candidates = [request.META.get("REMOTE_ADDR", "")]
    if settings.BEHIND_PROXY:
        candidates.insert(0, request.META.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2])
    for candidate in candidates:
        try:
            return str(ip_address(candidate.strip()))
        except ValueError:
            continue
    return ""
