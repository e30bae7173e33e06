"""Where a request comes from."""

from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Returns the IP address of the client, "" if it isn't known (a request over a unix socket).

    Under `BEHIND_PROXY` exactly one trusted proxy is in front, and the last address in X-Forwarded-For is what it saw.
    All before that, and the whole header without a proxy, is whatever the client likes to say.
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
