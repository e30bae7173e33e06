"""Limit failed logins, and never reveal which accounts exist.

django-axes counts failures in the database. All processes share it, and no login works without it, so an outage can't
bypass the limits. Usernames are stored as hashes, because a password may be typed into the wrong field. Limits apply to
the failures within `AXES_COOLOFF_TIME`. Attempts during a lockout are not counted, so they do not prolong it.

    account_at_address  one account from one address: low, because the owner can still log in from elsewhere
    account             one account from anywhere: guesses from many addresses
    address             any account from one address: high, because a hospital may share one address
"""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import structlog
from axes.attempts import get_cool_off_threshold
from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db.models import Q, Sum
from django.db.models.signals import pre_save
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from prometheus_client import Counter

from core import audit
from core.http.client_ip import client_address, parse_address
from core.models import AuditEvent

LIMITS = {"account_at_address": 5, "account": 50, "address": 100}

LOGINS = Counter("voiceassist_logins", "Login attempts. Outcome locked: rejected with 429.", ["outcome"])
for _outcome in ("success", "failure", "locked"):
    LOGINS.labels(_outcome)

log = structlog.stdlib.get_logger("voiceassist.logins")


def hashed_username(request: HttpRequest | None, credentials: dict[str, Any] | None) -> str:
    """Return a keyed hash of the normalised username, under which failures are counted."""
    name = str((credentials or {}).get("username", ""))
    return salted_hmac("voiceassist.logins", name.strip().lower(), algorithm="sha256").hexdigest()


def client_network(request: HttpRequest) -> str | None:
    address = client_address(request)
    return _network(address) if address else None


def _network(address: str) -> str:
    """Return the address to count failures under: for IPv6 its /64, in which a client can use any address."""
    ip = ip_address(parse_address(address))
    if isinstance(ip, IPv6Address):
        ip = ip_network((ip, 64), strict=False).network_address
    return str(ip)


class LoginThrottleHandler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """axes' handler with three limits instead of one, audit events and a metric.

    Private, because axes has a single limit: `get_cool_off_threshold`, `request.axes_*` (docs/UPGRADING.md).
    """

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """Return 1, the value of AXES_FAILURE_LIMIT, if any limit is reached, otherwise 0."""
        account = Q(username=hashed_username(request, credentials))
        address = Q(ip_address=request.axes_ip_address)
        recent = AccessAttempt.objects.filter(account | address, attempt_time__gte=get_cool_off_threshold(request))
        failures = recent.aggregate(
            account_at_address=Sum("failures_since_start", filter=account & address, default=0),
            account=Sum("failures_since_start", filter=account, default=0),
            address=Sum("failures_since_start", filter=address, default=0),
        )
        return int(any(failures[scope] >= limit for scope, limit in LIMITS.items()))

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """Record the failure. Attempts during a lockout only increment the metric.

        Otherwise anyone could make the audit trail grow without limit.
        """
        was_locked_out = request.axes_locked_out
        if not was_locked_out:
            audit.record_failed_login(AuditEvent.Action.LOGIN_FAILED, request, credentials)
            request.axes_user_agent = request.axes_http_accept = request.axes_path_info = ""
            super().user_login_failed(sender, credentials, request, **kwargs)
        if request.axes_locked_out and not was_locked_out:
            audit.record_failed_login(AuditEvent.Action.LOGIN_LOCKED, request, credentials)
            log.warning("login locked after repeated failures")
        LOGINS.labels("locked" if request.axes_locked_out else "failure").inc()

    def user_logged_in(self, sender: Any, request: Any, user: AbstractBaseUser, **kwargs: Any) -> None:
        """Delete the failures of this account at this address.

        Other failures remain. Otherwise an attacker could reset the address limit by logging in to their own account.
        """
        super().user_logged_in(sender, request, user, **kwargs)
        key = hashed_username(request, {"username": user.get_username()})
        AccessAttempt.objects.filter(username=key, ip_address=request.axes_ip_address).delete()
        LOGINS.labels("success").inc()

    def reset_attempts(self, *, ip_address: str | None = None, username: str | None = None, **options: Any) -> int:
        """Delete failures. `manage.py axes_reset_username EMAIL` and `axes_reset_ip ADDRESS` call this."""
        key = hashed_username(None, {"username": username}) if username else None
        try:
            network = None if ip_address is None else _network(ip_address)
        except ValueError:
            raise CommandError("Invalid IP address. Enter one such as 192.0.2.7 or 2001:db8::7.") from None
        return int(super().reset_attempts(ip_address=network, username=key, **options))


@receiver(pre_save, sender=AccessAttempt)
def _drop_form_data(instance: Any, **kwargs: Any) -> None:
    instance.get_data = instance.post_data = ""


def lockout_response(request: HttpRequest, response: HttpResponse, credentials: Any) -> HttpResponse:
    """Return axes' response with status 429 and `Retry-After`."""
    response.status_code = 429
    response["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return response


class LoginForm(AdminAuthenticationForm):
    def get_invalid_login_error(self) -> ValidationError:
        if getattr(self.request, "axes_locked_out", False):
            minutes = settings.AXES_COOLOFF_TIME.total_seconds() // 60
            return ValidationError(
                f"Too many failed login attempts. Try again in {minutes:.0f} minutes.", code="locked"
            )
        return super().get_invalid_login_error()

    def confirm_login_allowed(self, user: Any) -> None:
        """Treat the right password of an account without staff access exactly like a wrong one.

        Any difference would reveal that the account exists and that the password is right.
        """
        try:
            super().confirm_login_allowed(user)
        except ValidationError:
            credentials = {"username": user.get_username()}
            user_login_failed.send(sender=__name__, credentials=credentials, request=self.request)
            raise self.get_invalid_login_error() from None
