"""Add an index for each ordering that queries use, so that pagination by time is fast for millions of rows."""

import django.contrib.postgres.indexes
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("core", "0001_initial"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="message",
            options={"ordering": ("-created_at", "-id")},
        ),
        migrations.AlterModelOptions(
            name="session",
            options={
                "ordering": ("-created_at", "-id"),
                "permissions": (("view_phi", "Can reveal PHI, each time with an audit record"),),
            },
        ),
        migrations.AlterModelOptions(
            name="user",
            options={"ordering": ("-created_at", "-id")},
        ),
        migrations.RemoveConstraint(
            model_name="message",
            name="messages_client_message_id_once",
        ),
        migrations.RemoveIndex(
            model_name="session",
            name="sessions_user_recent",
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(fields=["created_at", "id"], name="messages_time"),
        ),
        migrations.AddIndex(
            model_name="session",
            index=models.Index(fields=["user", "created_at", "id"], name="sessions_user_time"),
        ),
        migrations.AddIndex(
            model_name="session",
            index=models.Index(fields=["created_at", "id"], name="sessions_time"),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(fields=["created_at", "id"], name="users_time"),
        ),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(
                django.contrib.postgres.indexes.OpClass(
                    django.db.models.functions.text.Upper("full_name"), "text_pattern_ops"
                ),
                name="users_name_beginning",
            ),
        ),
        migrations.AddConstraint(
            model_name="message",
            constraint=models.UniqueConstraint(
                condition=models.Q(("client_message_id__isnull", False)),
                fields=("client_message_id", "session"),
                name="messages_client_message_id_once",
            ),
        ),
    ]
