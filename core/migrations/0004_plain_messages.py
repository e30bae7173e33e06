"""Reword the errors of the audit triggers and a help text. Nothing else changes."""

from django.db import migrations, models

FUNCTION = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION {message} USING ERRCODE = 'insufficient_privilege';
END $$
"""


def message(name: str, new: str, old: str) -> migrations.RunSQL:
    return migrations.RunSQL(FUNCTION.format(name=name, message=new), FUNCTION.format(name=name, message=old))


class Migration(migrations.Migration):
    dependencies = [("core", "0003_audit")]

    operations = [
        message(
            "audit_is_kept",
            "'Audit events cannot be changed or deleted. Only INSERT is allowed on audit_events.'",
            "'audit_events can only be added to'",
        ),
        message(
            "audit_is_not_passed",
            "'TRUNCATE is not allowed on %, because it would bypass the audit trail. Use DELETE.', TG_TABLE_NAME",
            "'% can not be truncated, for that would not be audited: delete rows', TG_TABLE_NAME",
        ),
        migrations.AlterField(
            model_name="message",
            name="client_message_id",
            field=models.CharField(
                blank=True,
                help_text="Set by the client. A message that is sent again with the same id is stored once.",
                max_length=128,
                null=True,
            ),
        ),
    ]
