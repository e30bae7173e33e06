"""Logging in: how often it may fail, and answers that tell nothing of the account.

django-axes counts failures in the database: all processes and machines share it, and without it nobody can log in, so
that there is no way past the count. It stores no name and no address in clear that was typed or sent: a name may be a
password in the wrong field. Each limit holds for failures within `AXES_COOLOFF_TIME`, and while one is reached nothing
is counted, so that the lock ends by itself however long somebody goes on trying:

    an account at an address   few: who guesses there locks themselves out, and not the account's owner elsewhere
    an account, anywhere       guesses from many addresses at once
    an address, any account    many: a hospital may have one address
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
from django.db.models import Q, Sum
from django.db.models.signals import pre_save
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from prometheus_client import Counter

from core import audit
from core.http.client_ip import client_address
from core.models import AuditEvent

LIMITS = {"account_at_address": 5, "account": 50, "address": 100}

LOGINS = Counter("voiceassist_logins", "Attempts to log in; locked: those answered with 429.", ["outcome"])
for _outcome in ("success", "failure", "locked"):
    LOGINS.labels(_outcome)

log = structlog.stdlib.get_logger("voiceassist.logins")


def hashed_username(request: HttpRequest | None, credentials: dict[str, Any] | None) -> str:
    """Returns what stands for a typed name where failures are counted: the same for each way to write an account's."""
    name = str((credentials or {}).get("username", ""))
    return salted_hmac("voiceassist.logins", name.strip().lower(), algorithm="sha256").hexdigest()


def client_network(request: HttpRequest) -> str | None:
    return network(client_address(request))


def network(known: str | None) -> str | None:
    """Returns what counts as one address: of IPv6 the /64, within which a client has as many as it likes."""
    if not known:
        return None
    address = ip_address(known)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or ip_network((address, 64), strict=False).network_address
    return str(address)


class LoginThrottleHandler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """What axes does, with a limit for each of the three, and a trail."""

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """Returns 1 if a limit is reached, else 0: axes knows one limit for all, and is told that it is 1."""
        account = Q(username=hashed_username(request, credentials))
        address = Q(ip_address=request.axes_ip_address)
        recent = AccessAttempt.objects.filter(account | address, attempt_time__gte=get_cool_off_threshold(request))
        counted = recent.aggregate(
            account_at_address=Sum("failures_since_start", filter=account & address, default=0),
            account=Sum("failures_since_start", filter=account, default=0),
            address=Sum("failures_since_start", filter=address, default=0),
        )
        return int(any(counted[of] >= limit for of, limit in LIMITS.items()))

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """What a locked client goes on to try is answered and measured, but neither counted nor recorded: nobody may
        make the trail, which is kept, grow without end."""
        refused = request.axes_locked_out
        if not refused:
            audit.login_failed(AuditEvent.Action.LOGIN_FAILED, request, credentials)
            request.axes_user_agent = request.axes_http_accept = request.axes_path_info = ""
            super().user_login_failed(sender, credentials, request, **kwargs)
        if request.axes_locked_out and not refused:
            audit.login_failed(AuditEvent.Action.LOGIN_LOCKED, request, credentials)
            log.warning("login locked after repeated failures")
        LOGINS.labels("locked" if request.axes_locked_out else "failure").inc()

    def user_logged_in(self, sender: Any, request: Any, user: AbstractBaseUser, **kwargs: Any) -> None:
        """Forgets the failures of this account at this address. Others stay: who has an account could else log in to
        it between guesses at those of others."""
        super().user_logged_in(sender, request, user, **kwargs)
        key = hashed_username(request, {"username": user.get_username()})
        AccessAttempt.objects.filter(username=key, ip_address=request.axes_ip_address).delete()
        LOGINS.labels("success").inc()

    def reset_attempts(self, *, ip_address: str | None = None, username: str | None = None, **how: Any) -> int:
        """What `manage.py axes_reset_username EMAIL` and its like call."""
        key = hashed_username(None, {"username": username}) if username else None
        return int(super().reset_attempts(ip_address=network(ip_address), username=key, **how))


@receiver(pre_save, sender=AccessAttempt)
def _store_no_form(instance: Any, **kwargs: Any) -> None:
    instance.get_data = instance.post_data = ""


def lockout_response(request: HttpRequest, response: HttpResponse, credentials: Any) -> HttpResponse:
    """The same page, with a status that says why."""
    response.status_code = 429
    response["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return response


class LoginForm(AdminAuthenticationForm):
    def get_invalid_login_error(self) -> ValidationError:
        if getattr(self.request, "axes_locked_out", False):
            minutes = settings.AXES_COOLOFF_TIME.total_seconds() // 60
            return ValidationError(f"Too many attempts failed. Try again in {minutes:.0f} minutes.", code="locked")
        return super().get_invalid_login_error()

    def confirm_login_allowed(self, user: Any) -> None:
        """The right password of an account that isn't staff's does all that a wrong one does, else it could be told."""
        try:
            super().confirm_login_allowed(user)
        except ValidationError:
            name = {"username": user.get_username()}
            user_login_failed.send(sender=__name__, credentials=name, request=self.request)
            raise self.get_invalid_login_error() from None
