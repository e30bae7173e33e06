"""The audit trail."""

from uuid import UUID

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7

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
        REVEAL_REFUSED = "reveal_refused"
        LOGIN = "login"
        LOGIN_FAILED = "login_failed"
        LOGIN_LOCKED = "login_locked"  # refused after too many failures
        SECOND_FACTOR_FAILED = "second_factor_failed"
        RECOVERY_CODE_USED = "recovery_code_used"
        PASSWORD_FAILED = "password_failed"  # a wrong password where staff have to confirm their own
        LOGOUT = "logout"
        LOGOFF = "logoff"  # automatic, when a web session expires
        LOGINS_ENDED = "logins_ended"  # all logins of a user, by staff, a command or a reset of the second factor
        DELETION_STARTED = "deletion_started"  # of a user or session whose rows are deleted in many transactions
        JOB_CANCELLED = "job_cancelled"
        EXPORT = "export"  # of a user's data
        EXPORT_DOWNLOADED = "export_downloaded"

    PERSONAL = ("actor_email", "address", "changes")
    NON_SENSITIVE = ("action", "table", "object_id", "actor_id", "subject_id", "session_id", "trace_id")
    DISCLOSURES = (Action.REVEAL, Action.REVEAL_REFUSED, Action.EXPORT, Action.EXPORT_DOWNLOADED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=20, choices=Action)
    table = models.CharField(max_length=63, blank=True)
    object_id = models.CharField("object ID", max_length=64, blank=True)
    actor_id = models.UUIDField("actor ID", null=True)
    actor_email = models.CharField(max_length=254, blank=True)
    # Of disclosures only: the user whose data it is, and the conversation. `changes` repeats them, because the digests
    # of every release cover that. NULL in events from before migration 0015.
    subject_id = models.UUIDField(null=True)
    session_id = models.UUIDField(null=True)
    address = models.GenericIPAddressField(null=True)
    trace_id = models.CharField("trace ID", max_length=128, blank=True)
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
            *(
                models.Index(
                    fields=(column, "created_at", "id"),
                    name=f"audit_events_{column.removesuffix('_id')}",
                    condition=Q((f"{column}__isnull", False)),
                )
                for column in ("subject_id", "session_id")
            ),
        )

    def __str__(self) -> str:
        return f"{self._meta.verbose_name} {self.pk}"
