"""Add exports of a user's data, audit them, and name the events of deletions, cancelled jobs and exports."""

import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models

TRIGGERS = """
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON exports FOR EACH ROW EXECUTE FUNCTION audit_row(
    'id', 'id created_at user_id recipient', 'updated_at size finished_at'
);
ALTER TABLE exports ENABLE ALWAYS TRIGGER audit;
CREATE TRIGGER audit_is_not_passed BEFORE TRUNCATE ON exports
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_passed();
ALTER TABLE exports ENABLE ALWAYS TRIGGER audit_is_not_passed
"""
NO_TRIGGERS = "DROP TRIGGER audit ON exports; DROP TRIGGER audit_is_not_passed ON exports"
# Ciphertext can't be compressed, so PostgreSQL would only waste time, and statistics would copy parts of it.
STORAGE = """
ALTER TABLE export_chunks ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE export_chunks ALTER COLUMN data SET STATISTICS 0
"""
ACTIONS = (
    "create", "change", "delete", "reveal", "reveal_refused", "login", "login_failed", "login_locked",
    "second_factor_failed", "recovery_code_used", "password_failed", "logout", "logoff", "logins_ended",
    "deletion_started", "job_cancelled", "export", "export_downloaded",
)


class Migration(migrations.Migration):
    dependencies = [("core", "0013_backups")]

    operations = [
        migrations.CreateModel(
            name="Export",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("user_id", models.UUIDField()),
                ("recipient", models.CharField(max_length=100)),
                ("size", models.PositiveBigIntegerField(default=0)),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "exports",
                "ordering": ("-created_at", "-id"),
                "abstract": False,
                "default_permissions": (),
                "permissions": (("export_user", "Can export the data of a user, encrypted for a key"),),
            },
        ),
        migrations.CreateModel(
            name="ExportChunk",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("number", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
                (
                    "export",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="chunks",
                        to="core.export",
                    ),
                ),
            ],
            options={
                "db_table": "export_chunks",
                "ordering": ("-created_at", "-id"),
                "abstract": False,
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("export", "number"), name="exports_chunk_once")],
            },
        ),
        migrations.RunSQL(TRIGGERS, NO_TRIGGERS),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="auditevent",
            name="action",
            field=models.CharField(
                choices=[(action, action.replace("_", " ").title()) for action in ACTIONS], max_length=20
            ),
        ),
    ]
