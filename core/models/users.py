"""Users, who log in by email."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Lower, Upper

from core.models.base import BaseModel
from core.models.fields import WORDS, LowercaseEmailField

# The words of the name and the email, with `search_words` of migration 0016. core.admin.user_search matches them.
SEARCH_WORDS = Func(
    Func("full_name", "email", function="search_words"), function="array_to_tsvector", output_field=SearchVectorField()
)


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Create a user. Without a password the account can't be used to log in.

        Raise ValueError if the email is empty, IntegrityError if it exists in any letter case.
        """
        if not email:
            raise ValueError("Missing email. A user needs one to log in.")
        user: User = self.model(email=email, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, **{**fields, "is_staff": True, "is_superuser": True})


class User(BaseModel, AbstractBaseUser, PermissionsMixin):
    PERSONAL = ("email", "full_name")
    SECRET = ("password",)
    NON_SENSITIVE = (
        "specialty",
        "is_active",
        "is_staff",
        "is_superuser",
        "is_emergency",
        "must_change_password",
        "logins_ended_at",
        "last_login",
    )

    email = LowercaseEmailField(unique=True, error_messages={"unique": "A user with this email exists."})
    full_name = models.CharField(max_length=200, blank=True)
    specialty = models.CharField(max_length=100, blank=True, validators=[WORDS])
    is_active = models.BooleanField(
        "active", default=True, help_text="An inactive user can't log in. The data of the account is kept."
    )
    is_staff = models.BooleanField("staff", default=False, help_text="Staff can log in to this administration.")
    is_emergency = models.BooleanField(
        "emergency account",
        default=False,
        db_default=False,
        help_text="Failed logins from other addresses do not lock this account. Each of its logins raises an alert.",
    )
    must_change_password = models.BooleanField(
        default=False, db_default=False, help_text="Somebody else chose the password. The user must change it."
    )
    logins_ended_at = models.DateTimeField(null=True, editable=False)  # logins that began before it are over

    USERNAME_FIELD = EMAIL_FIELD = "email"
    objects = UserManager()

    class Meta:
        db_table = "users"
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=("created_at", "id"), name="users_time"),
            GinIndex(SEARCH_WORDS, name="users_words"),
            # Only the previous release searches by it. The next release drops it.
            models.Index(OpClass(Upper("full_name"), "text_pattern_ops"), name="users_name_beginning"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(email=Lower("email")),
                name="users_email_lowercase",
                violation_error_message="The email must be in lower case.",
            ),
        )

    __str__ = BaseModel.__str__  # AbstractBaseUser's returns the email

    def get_full_name(self) -> str:
        return self.full_name or self.email

    def get_short_name(self) -> str:
        return self.get_full_name()
