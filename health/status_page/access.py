"""Access to the status page: staff users, or while the database is down, a valid access cookie.

Every admin response to staff sets the cookie. It is signed, sent only to the admin, whose error pages link the status
page if it is valid, and valid only together with the session cookie that it was issued for, for at most
SESSION_COOKIE_AGE after the login. Logging out deletes it.
"""

import hashlib
import time

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare

from core.auth.session_expiry import LOGIN_AT_KEY
from core.clients.outages import is_outage

PATH = "/admin/status/"
COOKIE_PATH = "/admin/"
# Browsers accept the prefix __Host- only with the path "/".
COOKIE = "__Secure-status_access" if settings.SESSION_COOKIE_SECURE else "status_access"
_SALT = "health.status_page.access"


def can_view_status(request: HttpRequest) -> bool:
    """Return whether the user is staff, or during an outage of PostgreSQL, whether the cookie is valid.

    Run the readiness checks first. They open the circuit breaker of a hung database, so that this fails at once.
    """
    try:
        return _is_staff(request)
    except Exception as error:
        if not is_outage(error):
            raise
    request.user = AnonymousUser()  # so that the template does not query again
    return has_valid_cookie(request)


def _is_staff(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_staff)


def set_cookie(request: HttpRequest, response: HttpResponse) -> None:
    """Set the cookie on an admin response to staff, and delete it when the user is logged out."""
    session = getattr(request, "session", None)  # None if SessionMiddleware has not run
    if session is None or not session.accessed or response.status_code >= 500:
        return
    expires_at = session.get(LOGIN_AT_KEY, 0) + settings.SESSION_COOKIE_AGE
    if session.session_key and _is_staff(request) and expires_at > time.time():
        value = signing.dumps([_digest(session.session_key), expires_at], salt=_SALT)
        response.set_cookie(
            COOKIE, value, path=COOKIE_PATH, httponly=True, samesite="Strict", secure=settings.SESSION_COOKIE_SECURE
        )
    else:
        response.delete_cookie(COOKIE, path=COOKIE_PATH, samesite="Strict")


def has_valid_cookie(request: HttpRequest) -> bool:
    """Return whether the request has an unexpired cookie that was issued for its session."""
    try:
        session_digest, expires_at = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        return False
    session_key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    return constant_time_compare(session_digest, _digest(session_key)) and time.time() < expires_at


def _digest(session_key: str) -> str:
    """Return a hash without the secret key, because the cookie is signed and has to survive a change of the key."""
    return hashlib.sha256(f"{_SALT}:{session_key}".encode()).hexdigest()
