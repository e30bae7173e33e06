"""The log lines of requests that Django refuses: one per minute and kind, without the refused value.

Django logs every such request to `django.security.*`, with a message that quotes what the client sent. Our lines show
the cause when every page is 400 or 403 because ALLOWED_HOSTS or CSRF_TRUSTED_ORIGINS is wrong.
"""

import logging
import math
from time import monotonic

import structlog

log = structlog.stdlib.get_logger("voiceassist.security")

INTERVAL = 60.0  # seconds between two lines of one kind; scanners send many such requests

# By kind: the name of Django's exception, or what its check for cross-site request forgery found to be wrong.
_MESSAGES = {
    "DisallowedHost": "The Host header is not in ALLOWED_HOSTS. "
    "If users get 400 Bad Request, add the host name that they use.",
    "csrf_origin": "The Origin header is not in CSRF_TRUSTED_ORIGINS. If users get 403 Forbidden, add the origin that "
    "they use, or set BEHIND_PROXY if a proxy terminates TLS.",
    "csrf_referer": "The Referer header is missing, or its origin is not in CSRF_TRUSTED_ORIGINS. "
    "If users get 403 Forbidden, add the origin that they use.",
    "csrf_cookie": "The CSRF cookie is missing or malformed. If users get 403 Forbidden, check that they use HTTPS if "
    "HTTPS_ONLY is set, and that their browser accepts cookies.",
    "csrf_token": "The CSRF token is missing or incorrect. Users have to reload a page that they opened before they "
    "logged in.",
    "SuspiciousSession": "A web session could not be decoded, so its user is logged out. "
    "This is expected after SECRET_KEY has changed.",
}
_OTHER = (
    "A suspicious request was refused. The kind is the name of Django's exception, which its documentation explains."
)

# Beginnings of the reasons in django.middleware.csrf.
_CSRF_KINDS = {"Origin": "csrf_origin", "Referer": "csrf_referer", "CSRF cookie": "csrf_cookie"}


class RefusedRequestHandler(logging.Handler):
    """The handler of `django.security`. `logging` calls `emit` with the handler's lock, so the counts are exact."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind = _kind(record)
        now = monotonic()
        if now - self._logged_at.get(kind, -math.inf) < INTERVAL:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        self._logged_at[kind] = now
        # `suppressed` counts the requests since the last line, which were not logged.
        log.warning(_MESSAGES.get(kind, _OTHER), kind=kind, suppressed=self._suppressed.pop(kind, 0))


def _kind(record: logging.LogRecord) -> str:
    kind = record.name.rpartition(".")[2]
    if kind != "csrf":
        return kind
    reason = record.getMessage().removeprefix("Forbidden (")
    return next((kind for start, kind in _CSRF_KINDS.items() if reason.startswith(start)), "csrf_token")
