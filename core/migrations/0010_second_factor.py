"""Add recovery codes, and audit them and django-otp's devices."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models

# Table: columns whose values are recorded; columns whose changes are ignored, because every login changes them.
AUDITED = {
    "otp_totp_totpdevice": (
        "id created_at user_id name confirmed step t0 digits tolerance",
        "drift last_t last_used_at throttling_failure_count throttling_failure_timestamp",
    ),
    "recovery_codes": ("id created_at user_id", "updated_at"),
}
TRIGGERS = """
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION audit_row('user_id', '{shown}', '{ignored}');
ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit;
CREATE TRIGGER audit_is_not_passed BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_passed();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_is_not_passed
"""
NO_TRIGGERS = "DROP TRIGGER audit ON {table}; DROP TRIGGER audit_is_not_passed ON {table}"


class Migration(migrations.Migration):
    dependencies = [("core", "0009_end_logins_trigger"), ("otp_totp", "0003_add_timestamps")]

    operations = [
        migrations.CreateModel(
            name="Authenticator",
            fields=[],
            options={"proxy": True, "default_permissions": (), "indexes": [], "constraints": []},
            bases=("otp_totp.totpdevice",),
        ),
        migrations.CreateModel(
            name="RecoveryCodes",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "digests",
                    django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=64), size=None),
                ),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={"db_table": "recovery_codes", "default_permissions": ()},
        ),
        *(
            migrations.RunSQL(
                TRIGGERS.format(table=table, shown=shown, ignored=ignored), NO_TRIGGERS.format(table=table)
            )
            for table, (shown, ignored) in AUDITED.items()
        ),
    ]
