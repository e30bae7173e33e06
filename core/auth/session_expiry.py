"""Log users out 15 minutes after their last request, 12 hours after the login, and when all their logins are ended.

Both times are stored in the web session, on the server. `users.logins_ended_at` is compared at every request, because
Django loads the user then anyway. Once a login is over, `request.user` and the result of `request.auser()` are
AnonymousUser.
"""

import time
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY, middleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import UpdateError
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from core import audit
from core.models import AuditEvent, User

# Keys of the web session. The first two values are in seconds since 1970.
LOGIN_AT_KEY, LAST_SEEN_KEY, LOGINS_ENDED_KEY = "began", "seen", "logins_ended"
_AUTOMATIC_REFRESH = "X-Automatic-Refresh"  # sent by core/static/core/jobs.js
_SAVE_INTERVAL = 60  # seconds; saving the session on every request would cost a write each


@receiver(user_logged_in)
def _store_login(request: HttpRequest, user: User, **kwargs: Any) -> None:
    request.session[LOGIN_AT_KEY] = request.session[LAST_SEEN_KEY] = int(time.time())
    request.session[LOGINS_ENDED_KEY] = logins_ended(user)


def logins_ended(user: User) -> str:
    """Return a value that changes whenever all logins of the user end.

    A login is over when it has another value. Comparing it with the time of the login would depend on the clocks of two
    machines.
    """
    return user.logins_ended_at.isoformat() if user.logins_ended_at else ""


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


def is_automatic_refresh(request: HttpRequest) -> bool:
    """Return whether a script of the page sent the request. It must not extend an unattended login."""
    return getattr(request, "is_automatic_refresh", False) or _AUTOMATIC_REFRESH in request.headers


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    """Django's middleware, except that a session whose login is over is deleted and has no user."""

    def process_request(self, request: Any) -> None:
        super().process_request(request)
        request.user = SimpleLazyObject(lambda: _get_user(request))
        request.auser = partial(_aget_user, request)


def _get_user(request: Any) -> Any:
    user_id = request.session.get(SESSION_KEY)
    # Django replaces the key of a login that it verifies with a fallback of SECRET_KEY. That would log out the requests
    # of the browser that are in flight with the old key.
    with request.session.keeping_key():
        user = middleware.get_user(request)
    if user_id is None:
        return user
    if user.is_anonymous:  # the account was deactivated or deleted, or has another password
        user = User.objects.filter(pk=user_id).first() or user
        _record_logoff(request, user)
    elif is_expired(request.session) or request.session.get(LOGINS_ENDED_KEY) != logins_ended(user):
        _record_logoff(request, user)
    elif _touch(request):
        return user
    request.expired_user = user  # read by core.admin.phi_reveal
    request.session.flush()
    # Private: the cache of `middleware.get_user`, which the request log reads.
    request._cached_user = AnonymousUser()
    return request._cached_user


_aget_user = sync_to_async(_get_user)


def _record_logoff(request: HttpRequest, user: Any) -> None:
    if not user.is_anonymous:
        audit.record(AuditEvent.Action.LOGOFF, request, user=user, target=user)


def _touch(request: Any) -> bool:
    """Record the request as activity. Return False if the session was deleted."""
    session, now = request.session, int(time.time())
    if now - session[LAST_SEEN_KEY] >= _SAVE_INTERVAL and not is_automatic_refresh(request):
        session[LAST_SEEN_KEY] = now
        try:
            session.save()
        except UpdateError:
            return False  # deleted from the database while Redis was down; the copy in Redis is stale
        session.modified = False
    return True
