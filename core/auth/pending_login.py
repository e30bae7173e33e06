"""The steps between the right password and the login.

The web session of a pending login names the account under a key of its own, so `request.user` stays anonymous for every
view until `finish`. `current_step` decides which step comes next; clients can't choose:

    code       if the user has a second factor
    password   if somebody else chose the password
    enrol      if the user needs a second factor and has none

The code comes first, so that a password that was set by somebody else does not suffice to change it.
"""

import time
from typing import Any

from django.contrib.auth import login, logout
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from core.auth import second_factor
from core.auth.session_expiry import logins_ended
from core.models import User

_KEY = "pending_login"  # key of the web session
MAX_STEP_AGE = 300  # seconds from one step to the next


def start(request: HttpRequest, user: Any, next_url: str) -> None:
    """Remember in a new web session that the password was right. Call `finish` if no step is needed."""
    logout(request)  # another user may be logged in; the new session also has another key
    request.session[_KEY] = {
        "user": str(user.pk),
        "backend": user.backend,
        "password": user.get_session_auth_hash(),
        "logins_ended": logins_ended(user),
        "step_at": int(time.time()),
        "next": next_url,
        "has_code": False,
    }


def get_user(request: HttpRequest) -> User | None:
    """Return the user of the pending login. Return None if there is none, or if it is too old or no longer allowed."""
    pending = request.session.get(_KEY)
    if pending is None:
        return None
    user = User.objects.filter(pk=pending["user"], is_active=True, is_staff=True).first()
    if (
        user is None
        or time.time() - pending["step_at"] >= MAX_STEP_AGE
        or not constant_time_compare(pending["password"], user.get_session_auth_hash())
        or pending["logins_ended"] != logins_ended(user)
    ):
        request.session.flush()
        return None
    return user


def current_step(request: HttpRequest, user: User) -> str | None:
    """Return `code`, `password`, `enrol`, or None if the user can be logged in."""
    has_code = request.session[_KEY]["has_code"]
    is_enrolled = second_factor.is_enrolled(user)
    if is_enrolled and not has_code:
        return "code"
    if user.must_change_password:
        return "password"
    if not is_enrolled and second_factor.is_required(user):
        return "enrol"
    return None


def complete_step(request: HttpRequest, user: User, *, has_code: bool = False) -> None:
    """Record a completed step. The session is still bound to the user's password, which may be new."""
    pending = request.session[_KEY]
    pending |= {
        "step_at": int(time.time()),
        "password": user.get_session_auth_hash(),
        "has_code": has_code or pending["has_code"],
    }
    request.session.modified = True


def finish(request: HttpRequest, user: User) -> str:
    """Log the user in, and return the URL to go to."""
    pending = request.session.pop(_KEY)
    login(request, user, backend=pending["backend"])
    if pending["has_code"]:
        second_factor.mark_verified(request)
    second_factor.warn_of_few_codes(request)
    return str(pending["next"])
