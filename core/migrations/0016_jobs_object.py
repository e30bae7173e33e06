"""Add the index that finds the jobs of a user or session."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("core", "0015_exports")]

    operations = [
        AddIndexConcurrently(
            "Job",
            models.Index(
                Coalesce(KeyTextTransform("user_id", "arguments"), KeyTextTransform("session_id", "arguments")),
                "created_at",
                "id",
                name="jobs_object",
            ),
        ),
    ]
