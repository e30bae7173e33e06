"""The second factor: who needs one, checking codes, enrolment, reset.

    login       `core.auth.pending_login` asks for a code after the password, and only then logs the user in
    step-up     `requires_step_up`: revealing PHI asks again when the last code is older than an hour
    enrolment   an authenticator app is confirmed with a code, then recovery codes are shown once
    reset       by a superuser in the admin, or by `manage.py reset_second_factor`

django-otp checks the codes of the app, refuses used ones, and doubles the wait with each wrong one, however many
processes and addresses the guesses come from. Wrong codes also count as failed logins (`core.auth.login_throttling`).
"""

import time
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from core import audit
from core.auth.ended_logins import end_logins
from core.auth.login_throttling import is_locked, lockout_message, record_failure
from core.models import AuditEvent, Authenticator, RecoveryCodes, User

VERIFIED_AT_KEY = "second_factor_at"  # key of the web session; seconds since 1970
MAX_VERIFICATION_AGE = 3600  # seconds; older ones do not allow to reveal PHI
FEW_RECOVERY_CODES = 3
_PAGES_WITHOUT = ("logout", "second_factor", "second_factor_verify")  # URL names that do not need a second factor


def is_required(user: Any) -> bool:
    """Return whether the user must have a second factor."""
    return bool(settings.ADMIN_MFA == "required" and user.has_perm("core.view_phi"))


def is_enrolled(user: Any) -> bool:
    return bool(Authenticator.objects.filter(user=user, confirmed=True).exists())


def is_missing(request: HttpRequest) -> bool:
    """Return whether a logged-in user has to verify first, for example because they just became a superuser."""
    return (
        VERIFIED_AT_KEY not in request.session
        and getattr(request.resolver_match, "url_name", None) not in _PAGES_WITHOUT
        and is_required(request.user)
    )


def requires_step_up(request: HttpRequest) -> bool:
    """Return whether the user must enter a code before PHI is revealed. Query only if the last code is too old."""
    if time.time() - request.session.get(VERIFIED_AT_KEY, 0) < MAX_VERIFICATION_AGE:
        return False
    return is_required(request.user) or is_enrolled(request.user)


def ask_again(request: HttpRequest) -> HttpResponse:
    """Redirect to the page that asks for a code, and from there to a GET of this URL.

    Queries are left out, because a search may contain an email.
    """
    request.asked_for_code = True  # type: ignore[attr-defined]  # read by core.admin.phi_reveal
    return redirect_to_login(request.path, reverse("admin:second_factor_verify"))


def mark_verified(request: HttpRequest) -> None:
    request.session[VERIFIED_AT_KEY] = int(time.time())


def check_code(request: HttpRequest, user: User, code: str) -> None:
    """Check a code of the app or a recovery code, which is used up. Raise ValidationError if it is wrong."""
    if is_locked(request, user.get_username()):
        raise _locked(request)
    code = "".join(code.split())
    is_app_code = code.isdecimal()
    with audit.audit_context(request, user):  # commits failures too, because the exception is raised after it
        error = _check_app_code(user, code) if is_app_code else _use_recovery_code(request, user, code)
    if error is not None:
        is_failure = error.code == "wrong"
        if is_failure and record_failure(request, user.get_username(), AuditEvent.Action.SECOND_FACTOR_FAILED):
            raise _locked(request)
        raise error


def _locked(request: HttpRequest) -> ValidationError:
    return ValidationError(lockout_message(request))


def _check_app_code(user: User, code: str) -> ValidationError | None:
    device = Authenticator.objects.select_for_update().filter(user=user, confirmed=True).first()
    if device is None:
        return ValidationError("No authenticator app is set up. Ask an administrator for help.", code="wrong")
    is_allowed, reason = device.verify_is_allowed()
    if not is_allowed:
        seconds = int((reason["locked_until"] - timezone.now()).total_seconds()) + 1
        wait = f"{seconds} s" if seconds < 120 else f"{seconds // 60 + 1} minutes"
        return ValidationError(
            f"Too many wrong codes. Wait {wait}, then enter a new code, or use a recovery code.", code="wait"
        )
    if device.verify_token(code):
        return None
    return ValidationError(
        "Wrong code. Enter the code that the app shows now. A code works once, so wait for the next one after a login.",
        code="wrong",
    )


def _use_recovery_code(request: HttpRequest, user: User, code: str) -> ValidationError | None:
    codes = RecoveryCodes.objects.select_for_update().filter(user=user).first()
    if codes is None or not codes.use(code):
        return ValidationError(
            "Wrong code. Enter the 6 digits of the authenticator app, or a recovery code that you have not used yet.",
            code="wrong",
        )
    audit.record(AuditEvent.Action.RECOVERY_CODE_USED, request, user=user, target=user)
    if len(codes.digests) <= FEW_RECOVERY_CODES:
        request.few_recovery_codes = len(codes.digests)  # type: ignore[attr-defined]  # see `warn_of_few_codes`
    return None


def warn_of_few_codes(request: HttpRequest) -> None:
    """Add a message if `check_code` used one of the last recovery codes.

    Call it after the login, which may start a new session.
    """
    left = getattr(request, "few_recovery_codes", None)
    if left is not None:
        text = "Recovery codes left: {}. Create new ones on the page “Second factor”."
        messages.warning(request, text.format(left))


def enrol(request: HttpRequest, user: User, encrypted_secret: str, code: str, *, replace: bool = False) -> list[str]:
    """Store a new authenticator app if `code` is its current code. Return new recovery codes.

    Raise ValidationError if the code is wrong, or if the user has an app already and `replace` is false. Otherwise two
    logins at the same time could both enrol, and the second without a code of the first.
    """
    with audit.audit_context(request, user):
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if not replace and is_enrolled(user):
            raise ValidationError(
                "An authenticator app is already set up. Log in again with its code.", code="enrolled"
            )
        Authenticator.objects.filter(user=user).delete()
        device = Authenticator.new(user, encrypted_secret)
        device.save()
        if not device.verify_token(code):  # the exception rolls everything back
            raise ValidationError(
                "Wrong code. Check that the app has an entry for this account and that the phone's clock is right, "
                "then enter the current code.",
                code="wrong",
            )
        return RecoveryCodes.issue(user)


def remove(user: User) -> None:
    """Delete the second factor. The caller provides the transaction."""
    Authenticator.objects.filter(user=user).delete()
    RecoveryCodes.objects.filter(user=user).delete()


def reset(user: User, request: HttpRequest | None = None) -> None:
    """Delete the second factor and end the user's logins. The caller provides the transaction."""
    remove(user)
    end_logins(user, request)
