"""Rename fields for the admin, and add the groups "Support", "Privacy officer" and "On call".

A group that already has one of these names keeps its permissions. On a new database Django adds the permissions after
the last migration, so this one adds those that the groups need.
"""

import json
from typing import Any

import django.core.validators
from django.db import migrations, models

# Permissions by model, with the names that Django gives them.
VIEW_USER = ("user", "view_user", "Can view user")
VIEW_SESSION = ("session", "view_session", "Can view session")
VIEW_MESSAGE = ("message", "view_message", "Can view message")
VIEW_PHI = ("session", "view_phi", "Can reveal PHI, each time with an audit record")
VIEW_AUDIT_EVENT = ("auditevent", "view_auditevent", "Can view audit event")
VIEW_JOB = ("job", "view_job", "Can view job")
VIEW_BACKUP = ("backup", "view_backup", "Can view backup")
GROUPS = {
    "Support": (VIEW_USER, VIEW_SESSION, VIEW_MESSAGE, VIEW_PHI),
    "Privacy officer": (VIEW_AUDIT_EVENT, VIEW_USER, VIEW_SESSION, VIEW_MESSAGE, VIEW_JOB),
    "On call": (VIEW_JOB, VIEW_BACKUP),
}
TRACE_ID = "migration-core.0017"  # of the audit events


def add_groups(apps: Any, schema_editor: Any) -> None:
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    Group = apps.get_model("auth", "Group")
    with schema_editor.connection.cursor() as cursor:
        origin = json.dumps({"trace_id": TRACE_ID})
        cursor.execute("SELECT set_config('voiceassist.audit', %s, true)", [origin])
    for name, needed in GROUPS.items():
        group, is_new = Group.objects.get_or_create(name=name)
        for model, codename, text in needed if is_new else ():
            content_type, _ = ContentType.objects.get_or_create(app_label="core", model=model)
            permission, _ = Permission.objects.get_or_create(
                content_type=content_type, codename=codename, defaults={"name": text}
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [
        ("core", "0016_search_indexes"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.AlterField(
            model_name="message",
            name="audio_url",
            field=models.CharField(blank=True, max_length=2000, verbose_name="audio URL"),
        ),
        migrations.AlterField(
            model_name="message",
            name="client_message_id",
            field=models.CharField(
                blank=True,
                help_text="Client-supplied ID; a resent message is stored only once.",
                max_length=128,
                null=True,
                validators=[
                    django.core.validators.RegexValidator(
                        "\\A[A-Za-z0-9._:/+=-]*\\Z",
                        "Use only letters, digits and . _ : / + = - without spaces.",
                    )
                ],
                verbose_name="client message ID",
            ),
        ),
        migrations.AlterField(
            model_name="message",
            name="contains_phi",
            field=models.BooleanField(default=True, verbose_name="PHI flag"),
        ),
        migrations.AlterField(
            model_name="session",
            name="is_archived",
            field=models.BooleanField(default=False, verbose_name="archived"),
        ),
        migrations.AlterField(
            model_name="user",
            name="is_active",
            field=models.BooleanField(
                default=True,
                help_text="An inactive user can't log in. The data of the account is kept.",
                verbose_name="active",
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="is_staff",
            field=models.BooleanField(
                default=False,
                help_text="Staff can log in to this administration.",
                verbose_name="staff",
            ),
        ),
        # Unapplied, the groups stay: somebody may be a member, or have changed them.
        migrations.RunPython(add_groups, migrations.RunPython.noop),
    ]
