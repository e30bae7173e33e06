"""Limit failed logins, and never reveal which accounts exist.

django-axes counts failures in the database. All processes share it, and no login works without it, so an outage can't
bypass the limits (`core.auth.login_failures`). Attempts during a lockout are not counted, so they do not prolong it.

Other pages that check a password or a second factor use `is_locked` before the check, and `record_failure` after it.
"""

from functools import reduce
from math import ceil
from operator import or_
from typing import Any, cast

import structlog
from axes.handlers.database import AxesDatabaseHandler
from axes.handlers.proxy import AxesProxyHandler
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import transaction
from django.db.models import Max
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from prometheus_client import Counter

from core.auth import failed_login_events, login_failures
from core.http.error_handlers import too_many_requests
from core.models import AuditEvent, User

LOGINS = Counter("voiceassist_logins", "Login attempts. Outcome locked: rejected with 429.", ["outcome"])
for _outcome in ("success", "failure", "locked"):
    LOGINS.labels(_outcome)
EMERGENCY_LOGINS = Counter("voiceassist_emergency_logins", "Logins of emergency accounts.")

log = structlog.stdlib.get_logger("voiceassist.logins")


class LoginThrottleHandler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """axes' handler with our limits instead of one, audit events and metrics.

    Private, because axes has a single limit: `get_cool_off_threshold`, `request.axes_*` (docs/UPGRADING.md).
    """

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """Return 1, the value of AXES_FAILURE_LIMIT, if any limit is reached, otherwise 0."""
        failures = login_failures.count(request, credentials)
        return int(bool(login_failures.reached_limits(failures, login_failures.find_user(request, credentials))))

    def clean_expired_user_attempts(self, request: Any = None, credentials: dict[str, Any] | None = None) -> int:
        return login_failures.delete_expired()

    def user_login_failed(
        self,
        sender: Any,
        credentials: dict[str, Any],
        request: Any = None,
        *,
        action: AuditEvent.Action = AuditEvent.Action.LOGIN_FAILED,
        **kwargs: Any,
    ) -> None:
        """Count and record the failure. Attempts during a lockout only increment the metric."""
        if not request.axes_locked_out:
            self._count_and_record(action, request, credentials)
        LOGINS.labels("locked" if request.axes_locked_out else "failure").inc()

    @transaction.atomic
    def _count_and_record(self, action: AuditEvent.Action, request: Any, credentials: dict[str, Any]) -> None:
        login_failures.add(request, credentials)
        failures = login_failures.count(request, credentials)
        user = login_failures.find_user(request, credentials)
        request.axes_locked_out = bool(login_failures.reached_limits(failures, user))
        failed_login_events.record(action, request, credentials, failures, is_lock=request.axes_locked_out)
        self.clean_expired_user_attempts(request)
        if request.axes_locked_out:
            log.warning("login locked after repeated failures")

    def user_logged_in(self, sender: Any, request: Any, user: User, **kwargs: Any) -> None:
        super().user_logged_in(sender, request, user, **kwargs)
        login_failures.forget(request, user)
        LOGINS.labels("success").inc()
        if user.is_emergency:
            EMERGENCY_LOGINS.inc()
            log.warning("an emergency account logged in", user=str(user.pk))

    def reset_attempts(self, *, ip_address: str | None = None, username: str | None = None, **options: Any) -> int:
        """Delete failures. `manage.py axes_reset_username EMAIL` and `axes_reset_ip ADDRESS` call this."""
        try:
            return login_failures.reset(address=ip_address, username=username)
        except ValueError:
            raise CommandError("Invalid IP address. Enter one such as 192.0.2.7 or 2001:db8::7.") from None


def is_locked(request: HttpRequest, username: str) -> bool:
    """Return whether a limit is reached, so that nothing may be checked. The response is then 429."""
    locked = AxesProxyHandler.is_locked(request, {"username": username})
    if locked:
        request.axes_locked_out = True  # type: ignore[attr-defined]  # AxesMiddleware reads it
    return bool(locked)


def record_failure(
    request: HttpRequest, username: str, action: AuditEvent.Action = AuditEvent.Action.LOGIN_FAILED
) -> bool:
    """Count and record a failed check of a password or second factor. Return whether it has reached a limit."""
    credentials = {"username": username}
    user_login_failed.send(sender=__name__, credentials=credentials, request=request, action=action)
    return bool(request.axes_locked_out)  # type: ignore[attr-defined]


def lockout_response(request: Any, response: HttpResponse, credentials: Any) -> HttpResponse:
    """Return the page with status 429 and `Retry-After`, another page if the failures have ended the web session."""
    retry_after = str(seconds_locked(request))
    if getattr(request, "logged_out_by_failures", False):
        return too_many_requests(request, f"You have been logged out. {lockout_message(request)}", retry_after)
    response.status_code = 429
    response["Retry-After"] = retry_after
    return response


def seconds_locked(request: Any) -> int:
    """Return after how many seconds the account that this request has tried can be tried again.

    By then all failures that count now have expired. None is added, because attempts during a lockout are not counted.
    """
    if not hasattr(request, "seconds_locked"):
        name, user = request.login_user  # set by `login_failures.find_user`
        rows, scopes = login_failures.recent(request, {"username": name})
        reached = login_failures.reached_limits(login_failures.count(request, {"username": name}), user)
        if reached:
            rows = rows.filter(reduce(or_, (scopes[scope] for scope in reached)))
        last = rows.aggregate(last=Max("attempt_time"))["last"] or timezone.now()
        end = last + settings.AXES_COOLOFF_TIME
        request.seconds_locked = max(1, ceil((end - timezone.now()).total_seconds()))
    return int(request.seconds_locked)


def lockout_message(request: Any) -> str:
    """Return the words for a locked account. They are the same if there is no such account."""
    minutes = ceil(seconds_locked(request) / 60)
    unit = "minute" if minutes == 1 else "minutes"
    return f"Too many failed attempts. Try again in {minutes} {unit}, or ask an administrator."


class LoginForm(AdminAuthenticationForm):
    error_messages = {
        **AdminAuthenticationForm.error_messages,
        "invalid_login": "Wrong email or password, or not a staff account.",
    }

    def get_invalid_login_error(self) -> ValidationError:
        if getattr(self.request, "axes_locked_out", False):
            return ValidationError(lockout_message(self.request))
        return super().get_invalid_login_error()

    def confirm_login_allowed(self, user: Any) -> None:
        """Treat the right password of an account without staff access exactly like a wrong one.

        Any difference would reveal that the account exists and that the password is right.
        """
        try:
            super().confirm_login_allowed(user)
        except ValidationError:
            record_failure(cast(HttpRequest, self.request), user.get_username())
            raise self.get_invalid_login_error() from None
