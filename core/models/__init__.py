"""Users, their sessions, the messages of a session, and the audit trail.

    User 1 ─── * Session 1 ─── * Message

`Session` is a conversation, not a web session. Keys are UUIDv7, which contain the time of creation, so new rows go to
the end of the primary key's index.

Each model declares each of its columns as `PHI`, `PERSONAL`, `SECRET` or `NON_SENSITIVE`, see `core.phi`. Only
non-sensitive values appear in `str()` and `repr()`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.indexes import OpClass
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Upper
from django.utils import timezone
from uuid_utils.compat import uuid7


class BaseModel(models.Model):
    """Primary key and timestamps. `created_at` can be set, so that imported rows keep their original time."""

    PHI: tuple[str, ...] = ()
    PERSONAL: tuple[str, ...] = ()
    SECRET: tuple[str, ...] = ()
    NON_SENSITIVE: tuple[str, ...] = ()

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        """Return the key only, because logs and tracebacks print this and the admin's history stores it."""
        return f"{self._meta.verbose_name} {self.pk}"


class LowercaseEmailField(models.EmailField):
    """A case-insensitive email address: converted to lower case when it is saved, looked up or validated."""

    def to_python(self, value: Any) -> Any:
        value = super().to_python(value)
        return value.lower() if isinstance(value, str) else value

    def get_prep_value(self, value: Any) -> Any:
        return self.to_python(super().get_prep_value(value))

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = self.to_python(super().pre_save(model_instance, add))
        setattr(model_instance, self.attname, value)
        return value


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
    NON_SENSITIVE = ("specialty", "is_active", "is_staff", "is_superuser", "last_login")

    email = LowercaseEmailField(unique=True, error_messages={"unique": "A user with this email exists."})
    full_name = models.CharField(max_length=200, blank=True)
    specialty = models.CharField(max_length=100, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)

    USERNAME_FIELD = EMAIL_FIELD = "email"
    objects = UserManager()

    class Meta:
        db_table = "users"
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=("created_at", "id"), name="users_time"),
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


class Session(BaseModel):
    class Mode(models.TextChoices):
        TEXT = "text"
        VOICE = "voice"
        CASE_WORKSPACE = "case_workspace"

    PHI = ("title", "context")
    NON_SENSITIVE = ("user", "mode", "is_archived", "message_count", "ended_at")

    # sessions_user_time starts with this column, so a separate index would be redundant.
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions", db_index=False)
    title = models.CharField(max_length=200, blank=True)
    mode = models.CharField(max_length=20, choices=Mode, default=Mode.TEXT)
    is_archived = models.BooleanField(default=False)
    context = models.JSONField(default=dict, blank=True)
    message_count = models.PositiveIntegerField(default=0, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "sessions"
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=("user", "created_at", "id"), name="sessions_user_time"),
            models.Index(fields=("created_at", "id"), name="sessions_time"),
        )
        permissions = (("view_phi", "Can reveal PHI, each time with an audit record"),)
        constraints = (
            models.CheckConstraint(
                condition=Q(mode__in=("text", "voice", "case_workspace")), name="sessions_mode_known"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__gte=F("created_at")),
                name="sessions_end_after_beginning",
                violation_error_message="A session can't end before it began.",
            ),
        )


class Message(BaseModel):
    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"
        SYSTEM = "system"
        TOOL = "tool"

    PHI = ("content", "audio_url", "tool_calls", "tool_results", "metadata")
    NON_SENSITIVE = ("session", "role", "model", "tokens", "contains_phi", "client_message_id")

    # messages_session_time starts with this column, so a separate index would be redundant.
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="messages", db_index=False)
    role = models.CharField(max_length=10, choices=Role)
    content = models.TextField(blank=True)
    audio_url = models.CharField(max_length=2000, blank=True)
    model = models.CharField(max_length=100, blank=True, help_text="The language model that wrote it.")
    tokens = models.PositiveIntegerField(null=True, blank=True)
    tool_calls = models.JSONField(null=True, blank=True)
    tool_results = models.JSONField(null=True, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    # Assume PHI until a message has been classified.
    contains_phi = models.BooleanField("contains PHI", default=True)
    client_message_id = models.CharField(
        max_length=128,
        null=True,
        blank=True,
        help_text="Set by the client. A message that is sent again with the same id is stored once.",
    )

    class Meta:
        db_table = "messages"
        ordering = ("-created_at", "-id")
        indexes = (
            # One composite index for the latest messages of a session. With one index on session and one on time the
            # planner scanned the time index of the whole table for a session of 10,000 messages.
            models.Index(fields=("session", "created_at", "id"), name="messages_session_time"),
            # For lists and time ranges over all sessions.
            models.Index(fields=("created_at", "id"), name="messages_time"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(role__in=("user", "assistant", "system", "tool")), name="messages_role_known"
            ),
            # client_message_id comes first, so that the admin can search by it without a session.
            models.UniqueConstraint(
                fields=("client_message_id", "session"),
                condition=Q(client_message_id__isnull=False),
                name="messages_client_message_id_once",
            ),
        )


# Always true. The index on time is partial with this condition, so only queries that contain it can use that index.
# Otherwise the planner would search for old events of an actor or a request by scanning the index on time.
MATCHES_TIME_INDEX = Q(id__gt=UUID(int=0))


class AuditEvent(models.Model):
    """Record which user did what to which row, when and from where. Written by database triggers and `core.audit`.

    The database refuses to change or delete events. There are no foreign keys, because events must outlive the users
    and rows that they refer to.
    """

    class Action(models.TextChoices):
        CREATE = "create"
        CHANGE = "change"
        DELETE = "delete"
        REVEAL = "reveal"
        LOGIN = "login"
        LOGIN_FAILED = "login_failed"
        LOGIN_LOCKED = "login_locked"  # refused after too many failures
        LOGOUT = "logout"
        LOGOFF = "logoff"  # automatic, when a web session expires

    PERSONAL = ("actor_email", "address", "changes")
    NON_SENSITIVE = ("action", "table", "object_id", "actor_id", "trace_id")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=20, choices=Action)
    table = models.CharField(max_length=63, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    actor_id = models.UUIDField(null=True)
    actor_email = models.CharField(max_length=254, blank=True)
    address = models.GenericIPAddressField(null=True)
    trace_id = models.CharField(max_length=128, blank=True)
    changes = models.JSONField(default=dict)  # {column: [old value, new value]}, with PHI and secrets masked

    class Meta:
        db_table = "audit_events"
        ordering = ("-created_at", "-id")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("created_at", "id"), name="audit_events_time", condition=MATCHES_TIME_INDEX),
            models.Index(fields=("object_id", "created_at", "id"), name="audit_events_object"),
            models.Index(fields=("actor_id", "created_at", "id"), name="audit_events_actor"),
            models.Index(fields=("actor_email", "created_at", "id"), name="audit_events_email"),
            models.Index(fields=("trace_id", "created_at", "id"), name="audit_events_trace"),
            models.Index(fields=("address", "created_at", "id"), name="audit_events_address"),
            models.Index(fields=("action", "created_at", "id"), name="audit_events_action"),
        )

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"
