"""Add whose data an audit event disclosed, and from which conversation. Older events have NULL."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("core", "0014_exports")]

    operations = [
        migrations.AddField(model_name="auditevent", name="subject_id", field=models.UUIDField(null=True)),
        migrations.AddField(model_name="auditevent", name="session_id", field=models.UUIDField(null=True)),
    ]
