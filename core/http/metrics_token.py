"""The token that `/metrics` of the server and of the worker require if METRICS_TOKEN is set."""

from secrets import compare_digest

from django.conf import settings


def is_valid(authorization: str) -> bool:
    """Return whether the header `Authorization` contains the token. The time does not depend on how much is right."""
    return compare_digest(authorization.encode(), f"Bearer {settings.METRICS_TOKEN}".encode())
