"""Add background jobs, and audit who asked for them."""

import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce, Length
from django.db.models.lookups import LessThanOrEqual

TRIGGERS = """
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION audit_row(
    'id',
    'id created_at task arguments is_scheduled actor_id trace_id reason',
    'updated_at status run_after sent_at lease leased_until attempts done total result error started_at finished_at'
);
ALTER TABLE jobs ENABLE ALWAYS TRIGGER audit;
CREATE TRIGGER audit_is_not_passed BEFORE TRUNCATE ON jobs
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_passed();
ALTER TABLE jobs ENABLE ALWAYS TRIGGER audit_is_not_passed
"""
NO_TRIGGERS = "DROP TRIGGER audit ON jobs; DROP TRIGGER audit_is_not_passed ON jobs"
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
OBJECT_ID = Coalesce(KeyTextTransform("user_id", "arguments"), KeyTextTransform("session_id", "arguments"))


def is_short(column: str) -> models.Q:
    return models.Q(LessThanOrEqual(Length(Cast(column, models.TextField())), 1000))


class Migration(migrations.Migration):
    dependencies = [("core", "0011_limited_alphabets")]

    operations = [
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("task", models.CharField(max_length=100)),
                ("arguments", models.JSONField(default=dict)),
                ("is_scheduled", models.BooleanField(default=False)),
                (
                    "status",
                    models.CharField(
                        choices=[(status, status.capitalize()) for status in STATUSES], default="queued", max_length=10
                    ),
                ),
                ("run_after", models.DateTimeField(default=django.utils.timezone.now)),
                ("sent_at", models.DateTimeField(null=True)),
                ("lease", models.UUIDField(null=True)),
                ("leased_until", models.DateTimeField(null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("done", models.PositiveBigIntegerField(default=0)),
                ("total", models.PositiveBigIntegerField(null=True)),
                ("result", models.JSONField(default=dict)),
                ("error", models.CharField(blank=True, max_length=200)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("actor_id", models.UUIDField(null=True)),
                ("actor_email", models.CharField(blank=True, max_length=254)),
                ("address", models.GenericIPAddressField(null=True)),
                ("trace_id", models.CharField(blank=True, max_length=128)),
                ("reason", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "db_table": "jobs",
                "ordering": ("-created_at", "-id"),
                "abstract": False,
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(
                        fields=["run_after"], name="jobs_due", condition=models.Q(status__in=("queued", "running"))
                    ),
                    models.Index(fields=["created_at", "id"], name="jobs_created"),
                    models.Index(
                        fields=["finished_at"], name="jobs_failed", condition=models.Q(status="failed")
                    ),
                    models.Index(OBJECT_ID, "created_at", "id", name="jobs_object"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("task",), condition=models.Q(is_scheduled=True), name="jobs_one_per_schedule"
                    ),
                    models.CheckConstraint(condition=models.Q(status__in=STATUSES), name="jobs_status_is_known"),
                    models.CheckConstraint(
                        condition=is_short("arguments") & is_short("result"), name="jobs_json_is_short"
                    ),
                ],
            },
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
    ]
