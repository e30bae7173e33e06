"""Add whose data an audit event disclosed, and from which conversation. Older events have NULL."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("core", "0014_exports")]

    operations = [
        migrations.AddField(model_name="auditevent", name="subject_id", field=models.UUIDField(null=True)),
        migrations.AddField(model_name="auditevent", name="session_id", field=models.UUIDField(null=True)),
        # These execute no SQL.
        migrations.AlterField("auditevent", "object_id", models.CharField("object ID", max_length=64, blank=True)),
        migrations.AlterField("auditevent", "actor_id", models.UUIDField("actor ID", null=True)),
        migrations.AlterField("auditevent", "trace_id", models.CharField("trace ID", max_length=128, blank=True)),
    ]
