"""Ask a logged-in user for the current password, without letting the holder of a stolen session guess it."""

from typing import Any

from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth import logout, views
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from core.auth import known_devices, login_failures
from core.auth.login_throttling import is_locked, record_failure
from core.auth.password_saving import PasswordSavingMixin
from core.models import AuditEvent


def check(request: Any, password: str) -> bool:
    """Return whether this is the current password of the request's user.

    Wrong ones are counted like failed logins, with the same limits. At a limit the web session ends, and the response
    is 429, whatever the view returns.
    """
    username = request.user.get_username()
    if is_locked(request, username):
        _end_session(request)
        return False
    if request.user.check_password(password):
        login_failures.forget(request, request.user)
        return True
    if record_failure(request, username, AuditEvent.Action.PASSWORD_FAILED):
        _end_session(request)
    return False


def _end_session(request: Any) -> None:
    logout(request)
    request.logged_out_by_failures = True  # read by core.auth.login_throttling.lockout_response


class PasswordChangeForm(PasswordSavingMixin, AdminPasswordChangeForm):
    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_old_password(self) -> str:
        password: str = self.cleaned_data["old_password"]
        if not check(self.request, password):
            raise ValidationError(self.error_messages["password_incorrect"], code="password_incorrect")
        return password


class PasswordChangeView(views.PasswordChangeView):
    form_class = PasswordChangeForm

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "request": self.request}

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        known_devices.remember(self.request, form.user)  # the new password has ended the old cookie
        return response
