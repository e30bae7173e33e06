"""How long a login lasts: so long after the last request, and so long in all, whatever the browser does.

The times stand in the session, on the server. When one is over, whoever asks for the request's user gets nobody.
"""

import time
from typing import Any

from django.conf import settings
from django.contrib.auth import middleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import UpdateError
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from core import audit
from core.models import AuditEvent

LOGIN_AT_KEY, LAST_SEEN_KEY = "began", "seen"  # keys of the session; seconds since 1970
_NOTED_EVERY = 60  # seconds; to store each request would be a write for each


@receiver(user_logged_in)
def _begin(request: HttpRequest, **kwargs: Any) -> None:
    request.session[LOGIN_AT_KEY] = request.session[LAST_SEEN_KEY] = int(time.time())


def is_expired(session: Any) -> bool:
    """Says whether a login has lasted too long, since the last request or in all. One without times has."""
    now = int(time.time())
    idle, age = now - session.get(LAST_SEEN_KEY, 0), now - session.get(LOGIN_AT_KEY, 0)
    return bool(idle >= settings.SESSION_IDLE_AGE or age >= settings.SESSION_COOKIE_AGE)


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    """Django's, with an end to each login."""

    def process_request(self, request: Any) -> None:
        super().process_request(request)
        request.user = SimpleLazyObject(lambda: _user(request))


def _user(request: Any) -> Any:
    user = middleware.get_user(request)
    if user.is_anonymous or _goes_on(request, user):
        return user
    request.session.flush()
    request._cached_user = AnonymousUser()  # what Django and the log look at
    return request._cached_user


def _goes_on(request: Any, user: Any) -> bool:
    session, now = request.session, int(time.time())
    if is_expired(session):
        audit.record(AuditEvent.Action.LOGOFF, request, user=user, of=user)
        return False
    # A page that refreshes itself must not keep an unattended login alive.
    if now - session[LAST_SEEN_KEY] >= _NOTED_EVERY and not getattr(request, "is_automatic_refresh", False):
        session[LAST_SEEN_KEY] = now
        try:
            session.save()
        except UpdateError:
            return False  # the database knows it no more: it was ended while Redis was away, and came back with it
        session.modified = False
    return True
