"""Add the columns of users that protect accounts, and the actions that the audit trail records for it."""

from django.db import migrations, models

COLUMNS = "id created_at email full_name specialty is_active is_staff is_superuser"
NEW_COLUMNS = "is_emergency must_change_password logins_ended_at"
TRIGGER = """
CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION audit_row('id', '{shown}', 'updated_at last_login')
"""


class Migration(migrations.Migration):
    dependencies = [("core", "0005_row_level_audit_trigger")]

    operations = [
        migrations.AddField(
            model_name="user",
            name="is_emergency",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Failed logins from other addresses do not lock this account. Each of its logins raises an alert.",
                verbose_name="emergency account",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="logins_ended_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="must_change_password",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Somebody else chose the password. The user must change it.",
            ),
        ),
        migrations.AlterField(
            model_name="auditevent",
            name="action",
            field=models.CharField(
                choices=[
                    ("create", "Create"),
                    ("change", "Change"),
                    ("delete", "Delete"),
                    ("reveal", "Reveal"),
                    ("reveal_refused", "Reveal Refused"),
                    ("login", "Login"),
                    ("login_failed", "Login Failed"),
                    ("login_locked", "Login Locked"),
                    ("second_factor_failed", "Second Factor Failed"),
                    ("recovery_code_used", "Recovery Code Used"),
                    ("password_failed", "Password Failed"),
                    ("logout", "Logout"),
                    ("logoff", "Logoff"),
                    ("logins_ended", "Logins Ended"),
                ],
                max_length=20,
            ),
        ),
        migrations.RunSQL(TRIGGER.format(shown=f"{COLUMNS} {NEW_COLUMNS}"), TRIGGER.format(shown=COLUMNS)),
    ]
