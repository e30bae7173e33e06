"""Add the index by which checkpoints and `manage.py verify_audit` read the audit events."""

from django.db import migrations


class Migration(migrations.Migration):
    atomic = False  # for CREATE INDEX CONCURRENTLY

    dependencies = [("core", "0007_audit_every_table")]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX CONCURRENTLY audit_events_position_index ON audit_events (position, id)",
            "DROP INDEX CONCURRENTLY audit_events_position_index",
        ),
    ]
