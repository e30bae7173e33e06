"""Log users out 15 minutes after their last request and 12 hours after the login.

Both times are stored in the web session, on the server. Once either limit has passed, `request.user` and the result of
`request.auser()` are AnonymousUser.
"""

import time
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
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

LOGIN_AT_KEY, LAST_SEEN_KEY = "began", "seen"  # keys of the web session; values in seconds since 1970
_SAVE_INTERVAL = 60  # seconds; saving the session on every request would cost a write each


@receiver(user_logged_in)
def _store_login_time(request: HttpRequest, **kwargs: Any) -> None:
    request.session[LOGIN_AT_KEY] = request.session[LAST_SEEN_KEY] = int(time.time())


def is_expired(session: Any) -> bool:
    """Return whether a web session has passed either limit. A session without times counts as expired."""
    now = int(time.time())
    idle, age = now - session.get(LAST_SEEN_KEY, 0), now - session.get(LOGIN_AT_KEY, 0)
    return bool(idle >= settings.SESSION_IDLE_AGE or age >= settings.SESSION_COOKIE_AGE)


def seconds_left(request: Any) -> int:
    """Return in how many seconds the login ends if the user sends no other request, or 0 without a login."""
    if request.user.is_anonymous:
        return 0
    idle_end = request.session[LAST_SEEN_KEY] + settings.SESSION_IDLE_AGE
    end = request.session[LOGIN_AT_KEY] + settings.SESSION_COOKIE_AGE
    return int(min(idle_end, end) - int(time.time()))


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    """Django's middleware, except that expired sessions have no user."""

    def process_request(self, request: Any) -> None:
        super().process_request(request)
        request.user = SimpleLazyObject(lambda: _get_user(request))
        request.auser = partial(_aget_user, request)


def _get_user(request: Any) -> Any:
    user = middleware.get_user(request)
    if user.is_anonymous or _touch_or_expire(request, user):
        return user
    request.expired_user = user  # read by core.admin.phi_reveal
    request.session.flush()
    # Private: the cache of `middleware.get_user`, which the request log reads.
    request._cached_user = AnonymousUser()
    return request._cached_user


_aget_user = sync_to_async(_get_user)


def _touch_or_expire(request: Any, user: Any) -> bool:
    """Record the request as activity. Return False if the session has expired or was deleted."""
    session, now = request.session, int(time.time())
    if is_expired(session):
        audit.record(AuditEvent.Action.LOGOFF, request, user=user, target=user)
        return False
    # Automatic refreshes of a page must not extend an unattended login.
    if now - session[LAST_SEEN_KEY] >= _SAVE_INTERVAL and not getattr(request, "is_automatic_refresh", False):
        session[LAST_SEEN_KEY] = now
        try:
            session.save()
        except UpdateError:
            return False  # deleted from the database while Redis was down; the copy in Redis is stale
        session.modified = False
    return True
