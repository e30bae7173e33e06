"""Who may see the status page, also while the database or Redis, where sessions are, is down.

While PostgreSQL is healthy the session decides, as everywhere in the admin, but asked for within a bounded time and
without Redis. While it is not, a pass does: a signed cookie that every admin page gives to staff,

    for the path of the status page alone, bound to the web session whose cookie must come with it,
    no longer than SESSION_COOKIE_AGE from the login, taken back by the logout.

Whoever is logged out or no longer staff therefore loses the page at once, or when the database is back.
"""

import threading
import time
from importlib import import_module

import psycopg
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from core.auth.session_expiry import LOGIN_AT_KEY, is_expired
from core.clients.postgresql.connection import Connection
from health.checks.persistent_connection import PersistentConnection
from health.checks.postgres import connect

PATH = "/admin/status/"
COOKIE = "status_pass"
_SALT = "health.passes"
_SECONDS = 1.0  # for a look at the session

SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


def give(request: HttpRequest, response: HttpResponse) -> None:
    """Gives the pass with an admin page's answer to staff, and takes it back when nobody is logged in any more."""
    session = getattr(request, "session", None)  # there is none if something before has answered
    if session is None or not session.accessed or response.status_code >= 500:
        return
    user = request.user
    seconds = session.get(LOGIN_AT_KEY, 0) + settings.SESSION_COOKIE_AGE - int(time.time())
    if session.session_key and user.is_active and getattr(user, "is_staff", False) and seconds > 0:
        value = signing.dumps([_digest(session.session_key), int(time.time()) + seconds], salt=_SALT)
        response.set_cookie(
            COOKIE, value, path=PATH, httponly=True, samesite="Strict", secure=settings.SESSION_COOKIE_SECURE
        )
    else:
        response.delete_cookie(COOKIE, path=PATH, samesite="Strict")


def holds(request: HttpRequest) -> bool:
    """Returns whether a pass that is valid now came with the session that it is for."""
    try:
        session, until = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        return False
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    return bool(constant_time_compare(session, _digest(key))) and time.time() < until


def _digest(session_key: str) -> str:
    return salted_hmac(_SALT, session_key, algorithm="sha256").hexdigest()


_connection = PersistentConnection(connect)
_lock = threading.Lock()


def may_look(request: HttpRequest, *, ask_database: bool) -> bool:
    if ask_database:
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
        try:
            with _lock:
                return _connection.run(lambda connection, seconds: _is_staff(connection, key, seconds), _SECONDS)
        except (psycopg.Error, OSError):
            pass  # it broke just now
    return holds(request)


def _is_staff(connection: Connection, session_key: str, seconds: float) -> bool:
    """Asks what `core.auth.session_expiry` and Django's `get_user` would, of the database alone, and notes nothing."""
    connection.timeout = seconds
    sql = "SELECT session_data FROM django_session WHERE session_key = %s AND expire_date > now()"
    row = connection.execute(sql, [session_key]).fetchone()
    session = SessionStore().decode(row[0]) if row else {}
    sql = "SELECT password FROM users WHERE id = %s::uuid AND is_active AND is_staff"
    row = connection.execute(sql, [session.get(SESSION_KEY)]).fetchone()
    if row is None or is_expired(session):
        return False
    user = get_user_model()(password=row[0])
    return bool(constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()))
