"""Users, their sessions, the messages of a session.

    User 1 ─── * Session 1 ─── * Message

`Session` is a conversation, not a web session. Keys are UUIDv7, so rows lie in the order in which they were made; such
a key tells when that was.

Each model says of each of its columns what it may hold: `PHI`, `PERSONAL`, `SECRET` or `PLAIN`, see `core.phi`. None of
the first three is in any `str()` or `repr()`.
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
    """What every table has. `created_at` can be given, so that imported rows keep their time."""

    PHI: tuple[str, ...] = ()
    PERSONAL: tuple[str, ...] = ()
    SECRET: tuple[str, ...] = ()
    PLAIN: tuple[str, ...] = ()

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        """Names the row by its key alone: the admin's history stores this, logs and tracebacks print it."""
        return f"{self._meta.verbose_name} {self.pk}"


class LowercaseEmailField(models.EmailField):
    """An address that is the same whatever its case: lower case in the database, in lookups and on the instance."""

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
        """Creates a user who logs in by `email`; without a password nobody can log in as them.

        Raises ValueError without an email, IntegrityError if the email is taken, whatever its case.
        """
        if not email:
            raise ValueError("A user needs an email.")
        user: User = self.model(email=email, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, **{**fields, "is_staff": True, "is_superuser": True})


class User(BaseModel, AbstractBaseUser, PermissionsMixin):
    PERSONAL = ("email", "full_name")
    SECRET = ("password",)
    PLAIN = ("specialty", "is_active", "is_staff", "is_superuser", "last_login")

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

    __str__ = BaseModel.__str__  # AbstractBaseUser's is the email

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
    PLAIN = ("user", "mode", "is_archived", "message_count", "ended_at")

    # Its index is the first column of sessions_user_time.
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
    PLAIN = ("session", "role", "model", "tokens", "contains_phi", "client_message_id")

    # Its index is the first column of messages_session_time.
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="messages", db_index=False)
    role = models.CharField(max_length=10, choices=Role)
    content = models.TextField(blank=True)
    audio_url = models.CharField(max_length=2000, blank=True)
    model = models.CharField(max_length=100, blank=True, help_text="The language model that wrote it.")
    tokens = models.PositiveIntegerField(null=True, blank=True)
    tool_calls = models.JSONField(null=True, blank=True)
    tool_results = models.JSONField(null=True, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    # Until somebody has looked, it does.
    contains_phi = models.BooleanField("contains PHI", default=True)
    client_message_id = models.CharField(
        max_length=128, null=True, blank=True, help_text="The client's own id: sent again, stored once."
    )

    class Meta:
        db_table = "messages"
        ordering = ("-created_at", "-id")
        indexes = (
            # One index for "the latest of a session": two, on session and on time, made the planner walk the whole
            # table's time index for a session of 10,000 messages.
            models.Index(fields=("session", "created_at", "id"), name="messages_session_time"),
            # Pages and time ranges over all sessions.
            models.Index(fields=("created_at", "id"), name="messages_time"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(role__in=("user", "assistant", "system", "tool")), name="messages_role_known"
            ),
            # The client's id comes first, so that the index also finds a message whose session isn't known.
            models.UniqueConstraint(
                fields=("client_message_id", "session"),
                condition=Q(client_message_id__isnull=False),
                name="messages_client_message_id_once",
            ),
        )


# Always true. Only a query that says it is served by the index on time alone: else the planner walks through the whole
# trail by that one for an actor or a request with much of it, long ago, instead of by theirs.
MATCHES_TIME_INDEX = Q(id__gt=UUID(int=0))


class AuditEvent(models.Model):
    """Who did what to which row, when, from where. Written by the database's triggers and by `core.audit`.

    The database refuses to change or delete one. There is no foreign key: the trail outlives whom and what it names.
    """

    class Action(models.TextChoices):
        CREATE = "create"
        CHANGE = "change"
        DELETE = "delete"
        REVEAL = "reveal"
        LOGIN = "login"
        LOGIN_FAILED = "login_failed"
        LOGIN_LOCKED = "login_locked"  # too many failures
        LOGOUT = "logout"
        LOGOFF = "logoff"  # automatic, after a time

    PERSONAL = ("actor_email", "address", "changes")
    PLAIN = ("action", "table", "object_id", "actor_id", "trace_id")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=20, choices=Action)
    table = models.CharField(max_length=63, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    actor_id = models.UUIDField(null=True)
    actor_email = models.CharField(max_length=254, blank=True)
    address = models.GenericIPAddressField(null=True)
    trace_id = models.CharField(max_length=128, blank=True)
    changes = models.JSONField(default=dict)  # {column: [before, after]}, PHI and secrets masked

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
