"""Background jobs."""

from uuid import UUID

from django.db import models
from django.db.models import Q
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce, Length
from django.db.models.lookups import LessThanOrEqual
from django.utils import timezone

from core.models.base import BaseModel

# The user or session that a job is about, as text. Null for other jobs.
OBJECT_ID = Coalesce(KeyTextTransform("user_id", "arguments"), KeyTextTransform("session_id", "arguments"))
_MAX_JSON_LENGTH = 1000  # characters


def _is_short(column: str) -> Q:
    return Q(LessThanOrEqual(Length(Cast(column, models.TextField())), _MAX_JSON_LENGTH))


class Job(BaseModel):
    """One run of a task in the background, or a task that runs on a schedule. `core.jobs` describes how jobs run.

    The row is the record of the job. Redis holds only its id, so a lost queue loses no job.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    PERSONAL = ("actor_email", "address", "reason")
    NON_SENSITIVE = (
        "task",
        "arguments",
        "is_scheduled",
        "status",
        "run_after",
        "sent_at",
        "lease",
        "leased_until",
        "attempts",
        "done",
        "total",
        "result",
        "error",
        "started_at",
        "finished_at",
        "actor_id",
        "trace_id",
    )

    task = models.CharField(max_length=100)  # the dotted path of the function
    arguments = models.JSONField(default=dict)  # keyword arguments: ids and numbers only
    is_scheduled = models.BooleanField(default=False)  # queued again after each run, see core.jobs.schedule
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    run_after = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True)  # when the id was last put into Redis
    # A worker that runs the job has a lease, which it renews. After that time another worker may take the job over.
    lease = models.UUIDField(null=True)
    leased_until = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)  # without progress
    done = models.PositiveBigIntegerField(default=0)  # rows, or another unit of the task
    total = models.PositiveBigIntegerField(null=True)  # null if unknown
    result = models.JSONField(default=dict)  # numbers
    error = models.CharField(max_length=200, blank=True)  # class and SQLSTATE of the last exception
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    # Who asked for the job, as in AuditEvent. The events of the job have these values.
    actor_id = models.UUIDField(null=True)
    actor_email = models.CharField(max_length=254, blank=True)
    address = models.GenericIPAddressField(null=True)
    trace_id = models.CharField(max_length=128, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta(BaseModel.Meta):
        db_table = "jobs"
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("run_after",), name="jobs_due", condition=Q(status__in=("queued", "running"))),
            models.Index(fields=("created_at", "id"), name="jobs_created"),
            models.Index(fields=("finished_at",), name="jobs_failed", condition=Q(status="failed")),  # for readiness
            models.Index(OBJECT_ID, "created_at", "id", name="jobs_object"),
        )
        constraints = (
            models.UniqueConstraint(fields=("task",), condition=Q(is_scheduled=True), name="jobs_one_per_schedule"),
            models.CheckConstraint(
                condition=Q(status__in=("queued", "running", "succeeded", "failed", "cancelled")),
                name="jobs_status_is_known",
            ),
            # Ids and numbers are short. Python can't load every longer value, which would break pages and workers.
            models.CheckConstraint(condition=_is_short("arguments") & _is_short("result"), name="jobs_json_is_short"),
        )

    def id_argument(self, name: str) -> UUID | None:
        """Return an argument that is an id, None if there is none. The table may contain JSON of any kind."""
        value = self.arguments.get(name) if isinstance(self.arguments, dict) else None
        try:
            return UUID(value) if isinstance(value, str) else None
        except ValueError:
            return None
