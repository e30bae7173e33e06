"""Rules of the admin for passwords and the second factor of users.

- Setting a password, one's own too, needs a code or the current password of the user who sets it. Otherwise an
  unattended computer would suffice to take over an account for good.
- A password that somebody else sets has to be changed at the first login.
- A user who becomes staff or gains a permission loses a password that somebody else chose. Otherwise a user who may
  edit ordinary accounts could set the password of one that reads PHI later.
"""

from copy import copy
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX, make_password
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django_otp.plugins.otp_totp import admin as otp_totp_admin

from core.admin.row_names import LabelledRow
from core.auth import known_devices, second_factor
from core.auth.forms import ConfirmedFormMixin, ConfirmForm
from core.auth.password_saving import PasswordSavingMixin
from core.models import Authenticator, RecoveryCodes, User

admin.site.unregister(otp_totp_admin.TOTPDevice)  # django-otp's pages show secrets and can add a device to any account


def withdraw_passwords_of_others(users: QuerySet[User]) -> int:
    """Make passwords unusable that somebody else chose, and return their number.

    A password that has never been used to log in counts too, because nobody but its setter has confirmed it.
    """
    chosen_by_others = Q(must_change_password=True) | Q(last_login=None)
    usable = users.filter(chosen_by_others).exclude(password__startswith=UNUSABLE_PASSWORD_PREFIX)
    return User.objects.filter(pk__in=list(usable.values_list("pk", flat=True))).update(password=make_password(None))


class UserAddForm(ConfirmedFormMixin, AdminUserCreationForm):
    """Django's form, with a confirmation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # It is the email of another person than the one whose data the browser has stored.
        self.fields["email"].widget.attrs["autocomplete"] = "off"

    def save(self, commit: bool = True) -> Any:
        self.instance.must_change_password = self.cleaned_data["set_usable_password"]
        return super().save(commit)


class UserPasswordForm(ConfirmedFormMixin, PasswordSavingMixin, AdminPasswordChangeForm):
    """Django's form, with a confirmation."""

    def save(self, commit: bool = True) -> Any:
        is_own = self.user.pk == self.request.user.pk
        self.user.must_change_password = self.cleaned_data["set_usable_password"] and not is_own
        user = super().save(commit)
        if is_own:
            known_devices.remember(self.request, user)  # the new password has ended the old cookie
        return user


class AccountSecurityAdmin(DjangoUserAdmin):
    change_form_template = "admin/core/user/change_form.html"
    change_user_password_template = "admin/core/user/change_password.html"

    @admin.display(description="second factor")
    def second_factor(self, user: User) -> str:
        device = Authenticator.objects.filter(user=user, confirmed=True).first()
        if device is None:
            return "none"
        codes = RecoveryCodes.objects.filter(user=user).first()
        return (
            f"authenticator app since {device.created_at:%Y-%m-%d}, {len(codes.digests) if codes else 0} recovery codes"
        )

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.reset_second_factor)
        return [
            path("<path:object_id>/reset-second-factor/", view, name="core_user_reset_second_factor"),
            *super().get_urls(),
        ]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = type("UserAddForm", (UserAddForm,), {"request": request})
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Leave out the button "Reset password" for readers who may not change the user."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        return [
            (title, {**options, "fields": [name for name in options["fields"] if name != "password"]})
            for title, options in fieldsets
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Django's page also needs the permission to change users, but its links to the page only need this one."""
        return super().has_add_permission(request) and self.has_change_permission(request)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Show Django's page, with a form that knows the request. A copy, because all threads share the ModelAdmin."""
        page = copy(self)
        page.change_password_form = type("UserPasswordForm", (UserPasswordForm,), {"request": request})
        response = super(AccountSecurityAdmin, page).user_change_password(request, id, form_url)
        if isinstance(response, TemplateResponse) and response.context_data:
            user = response.context_data["original"]
            response.context_data["original"] = LabelledRow(user, user.email)
        return response

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not change or not _gains_privileges(form):
            return
        if withdraw_passwords_of_others(User.objects.filter(pk=form.instance.pk)):
            messages.warning(
                request,
                "This account gained privileges, and its password was chosen by somebody else, so it no longer works. "
                "Set a new password. The user has to change it at the first login.",
            )

    def reset_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Delete a user's second factor after a confirmation by a superuser."""
        if not request.user.is_superuser:
            raise PermissionDenied
        user = self.get_object(request, unquote(object_id))
        if user is None:
            raise Http404
        form = ConfirmForm(request, *((request.POST,) if request.method == "POST" else ()))
        if request.method == "POST" and form.is_valid():
            second_factor.reset(user, request)
            messages.success(request, "Second factor reset. The user sets up a new one at the next login.")
            return HttpResponseRedirect(reverse("admin:core_user_change", args=[user.pk]))
        context = {"title": "Reset second factor", "opts": self.opts, "original": user, "form": form}
        page = {**self.admin_site.each_context(request), **context}
        return TemplateResponse(request, "admin/core/user/reset_second_factor.html", page)


def _gains_privileges(form: Any) -> bool:
    """Return whether a form makes a user staff or a superuser, or adds a group or a permission.

    The fields are missing if the user of the form may not grant them.
    """
    new, old = form.cleaned_data, form.initial
    return any(new.get(name) and not old.get(name) for name in ("is_staff", "is_superuser")) or any(
        set(new.get(name, ())) - set(old.get(name, ())) for name in ("groups", "user_permissions")
    )
