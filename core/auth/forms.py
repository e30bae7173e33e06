"""Forms that ask for a code of the second factor or for the current password."""

import base64
from typing import Any, cast

from django import forms
from django.contrib.auth.forms import SetPasswordForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from core import audit
from core.auth import current_password, second_factor
from core.auth.password_saving import PasswordSavingMixin
from core.models import User

_CODE_ATTRIBUTES = {"autocomplete": "one-time-code", "autocapitalize": "none", "spellcheck": "false"}
_DIGITS = {**_CODE_ATTRIBUTES, "inputmode": "numeric"}  # telephones show a keypad


class CodeInput(forms.PasswordInput):
    """A text field that is empty when the form is shown again after an error."""

    input_type = "text"


def check_password(request: HttpRequest, password: str) -> None:
    """Raise ValidationError unless `password` is that of the request's user."""
    if not current_password.check(request, password):
        raise ValidationError("Wrong password. Enter the password of your own account.", code="wrong")


class CodeForm(forms.Form):
    """Ask for a code. A right code is used up, so the form can be valid only once."""

    code = forms.CharField(
        label="Code",
        max_length=50,
        help_text="The 6 digits that your authenticator app shows.",
        widget=CodeInput(attrs={**_DIGITS, "autofocus": True}),
    )

    def __init__(self, request: HttpRequest, user: User, *args: Any) -> None:
        self.request, self.user = request, user
        super().__init__(*args)
        if "recovery" in request.GET:  # the link "Use a recovery code"
            field = self.fields["code"]
            field.label, field.help_text = "Recovery code", "One of your recovery codes. Each works once."
            field.widget.attrs.pop("inputmode")

    def clean_code(self) -> str:
        second_factor.check_code(self.request, self.user, self.cleaned_data["code"])
        return ""


class EnrolForm(forms.Form):
    """Ask for the first code of a new authenticator app, whose encrypted secret is in the web session.

    `recovery_codes` are the user's new ones, once the form is valid.
    """

    code = forms.CharField(
        label="Code",
        max_length=10,
        help_text="The 6 digits that the app shows now.",
        widget=CodeInput(attrs=_DIGITS),
    )

    def __init__(self, request: HttpRequest, user: User, secret: str, *args: Any, replace: bool = False) -> None:
        self.request, self.user, self.secret, self.replace = request, user, secret, replace
        self.recovery_codes: list[str] = []
        super().__init__(*args)

    def clean(self) -> None:
        super().clean()
        if not self.errors:
            code = "".join(self.cleaned_data["code"].split())
            try:
                self.recovery_codes = second_factor.enrol(
                    self.request, self.user, self.secret, code, replace=self.replace
                )
            except ValidationError as error:
                self.add_error("code", error)


class NewPasswordForm(PasswordSavingMixin, SetPasswordForm):
    """Ask for a password that only the user knows, instead of one that somebody else chose."""

    def __init__(self, request: HttpRequest, user: User, *args: Any) -> None:
        self.request = request
        super().__init__(user, *args)
        self.fields["new_password1"].widget.attrs["autofocus"] = True

    def clean_new_password1(self) -> str:
        password: str = self.cleaned_data["new_password1"]
        if self.user.check_password(password):
            raise ValidationError("The new password is the old one. Choose another password.", code="unchanged")
        return password

    def save(self, commit: bool = True) -> User:
        self.user.must_change_password = False
        with audit.audit_context(self.request, self.user):
            return super().save(commit)


class ConfirmedFormMixin(forms.Form):
    """Ask the logged-in user for a code, or without second factor for the password, before anything is saved.

    It is checked last, because a code works only once. Subclasses set `request`.
    """

    request: HttpRequest
    confirmation = forms.CharField(max_length=4096, strip=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["confirmation"]
        self._asks_for_code = second_factor.is_enrolled(self.request.user)
        if self._asks_for_code:
            field.label = "Your code"
            field.help_text = "The 6 digits that your authenticator app shows, or one of your recovery codes."
            field.widget = CodeInput(attrs=_CODE_ATTRIBUTES)
        else:
            field.label, field.help_text = "Your password", "The current password of your own account."
            field.widget = forms.PasswordInput(attrs={"autocomplete": "current-password"})

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound or self.errors:
            return
        user = cast(User, self.request.user)
        try:
            if self._asks_for_code:
                second_factor.check_code(self.request, user, self.cleaned_data["confirmation"])
            else:
                check_password(self.request, self.cleaned_data["confirmation"])
        except ValidationError as error:
            self.add_error("confirmation", error)


class ConfirmForm(ConfirmedFormMixin):
    """Ask for nothing but the confirmation."""

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self.request = request
        super().__init__(*args)


class ConfirmedEnrolForm(EnrolForm):
    """Also ask for the current password, because an unattended computer must not suffice to enrol."""

    password = forms.CharField(
        label="Your password", strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )
    field_order = ("password", "code")

    def clean_password(self) -> str:
        check_password(self.request, self.cleaned_data["password"])
        return ""


def grouped_secret(secret: bytes) -> str:
    """Return the secret as an authenticator app accepts it by hand, in groups of four letters."""
    text = base64.b32encode(secret).decode()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))
