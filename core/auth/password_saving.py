"""Save a new password, and nothing else of the account.

A request loads the account, and then computes several hashes. Meanwhile an administrator may deactivate the account or
set another password. Django's forms save all columns as they were loaded, which would undo both.
"""

from django import forms
from django.core.exceptions import PermissionDenied

from core.models import User

_COLUMNS = ("password", "must_change_password", "updated_at")
_MUST_BE_AS_LOADED = ("password", "is_active", "is_staff", "is_superuser")


class PasswordSavingMixin(forms.Form):
    """Form whose `save` raises PermissionDenied if somebody else has changed the account. Needs a transaction."""

    user: User

    def save(self, commit: bool = True) -> User:
        loaded = {name: getattr(self.user, name) for name in _MUST_BE_AS_LOADED}
        user: User = super().save(commit=False)  # type: ignore[misc]  # of the form that this is mixed into
        if commit:
            if not User.objects.select_for_update(no_key=True).filter(pk=user.pk, **loaded).exists():
                raise PermissionDenied
            user.save(update_fields=_COLUMNS)
        return user
