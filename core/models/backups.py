"""The backups that were made, and whether a drill has restored them."""

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from uuid_utils.compat import uuid7


class Backup(models.Model):
    """One backup, or the continuous copy of the WAL. Written by `ops/backup` and, when it is verified, by `drill`.

    The scripts write it by SQL, so the database has defaults for `id` and `created_at`.
    """

    class Kind(models.TextChoices):
        BASE = "base"
        DUMP = "dump"
        QDRANT = "qdrant"
        WAL = "wal"  # one row, whose `finished_at` is the time up to which everything committed has been copied

    NON_SENSITIVE = (
        "kind",
        "name",
        "started_at",
        "finished_at",
        "size",
        "product_version",
        "verified_at",
        "recovery_seconds",
        "data_age_seconds",
    )

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    name = models.CharField(max_length=32)  # of its folder
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    size = models.BigIntegerField()  # bytes
    product_version = models.CharField(max_length=32)
    verified_at = models.DateTimeField(null=True)
    recovery_seconds = models.FloatField(null=True)
    data_age_seconds = models.FloatField(null=True)  # between the last restored change and the start of the drill

    class Meta:
        db_table = "backups"
        ordering = ("-started_at", "-id")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=("kind", "name"), name="backups_kind_name"),
            models.CheckConstraint(
                condition=Q(kind__in=("base", "dump", "qdrant", "wal")), name="backups_kind_is_known"
            ),
            models.CheckConstraint(
                condition=Q(finished_at__gte=F("started_at"), size__gte=0), name="backups_time_and_size"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"
