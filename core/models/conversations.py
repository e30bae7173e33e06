"""Sessions, which are conversations, and their messages."""

from django.db import models
from django.db.models import F, Q

from core.models.base import BaseModel
from core.models.fields import IDENTIFIER, DepthLimitedJSONField
from core.models.users import User


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
    is_archived = models.BooleanField("archived", default=False)
    context = DepthLimitedJSONField(default=dict, blank=True)
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
    audio_url = models.CharField("audio URL", max_length=2000, blank=True)
    model = models.CharField(
        max_length=100, blank=True, validators=[IDENTIFIER], help_text="The language model that wrote it."
    )
    tokens = models.PositiveIntegerField(null=True, blank=True)
    tool_calls = DepthLimitedJSONField(null=True, blank=True)
    tool_results = DepthLimitedJSONField(null=True, blank=True)
    metadata = DepthLimitedJSONField(default=dict, blank=True)
    # Assume PHI until a message has been classified.
    contains_phi = models.BooleanField("PHI flag", default=True)
    client_message_id = models.CharField(
        "client message ID",
        max_length=128,
        null=True,
        blank=True,
        validators=[IDENTIFIER],
        help_text="Client-supplied ID; a resent message is stored only once.",
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
