"""Add the audit trail, and the triggers that write and protect it.

audit_changes(before, after, shown)   returns the changed columns; values of columns that are not in `shown` are masked
audit_row()                           records one created, changed or deleted row
audit_is_kept()                       refuses to change or delete audit events
audit_is_not_passed()                 refuses TRUNCATE, which would delete rows without recording it

`AUDITED` repeats the columns that `core.models` declares as NON_SENSITIVE or PERSONAL, because a migration must not
depend on the current models. Tests compare both. Columns that are not listed are masked.
"""

import uuid

import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models

MASK = "●●●●●●"

EVERY = "INSERT OR UPDATE OR DELETE"
# Table: recorded operations; column whose value becomes the event's object_id; columns whose values are recorded;
# columns whose changes are ignored.
AUDITED = {
    "users": (
        EVERY,
        "id",
        "id created_at email full_name specialty is_active is_staff is_superuser",
        "updated_at last_login",
    ),
    "sessions": (
        # Appending a message sets none of these columns, so the trigger does not run for it.
        "INSERT OR UPDATE OF id, created_at, user_id, title, mode, is_archived, context, ended_at OR DELETE",
        "id",
        "id created_at user_id mode is_archived ended_at",
        "updated_at message_count",
    ),
    "messages": (
        # INSERT is not recorded, because the row itself is the record. Its changes and its deletion are audited.
        "UPDATE OR DELETE",
        "id",
        "id created_at session_id role model tokens contains_phi client_message_id",
        "updated_at",
    ),
    "users_groups": (EVERY, "user_id", "user_id group_id", "id"),
    "users_user_permissions": (EVERY, "user_id", "user_id permission_id", "id"),
    "auth_group": (EVERY, "id", "id name", ""),
    "auth_group_permissions": (EVERY, "group_id", "group_id permission_id", "id"),
}

FUNCTIONS = f"""
CREATE FUNCTION audit_changes(before jsonb, after jsonb, shown text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, jsonb_build_array(
        CASE WHEN key = ANY(shown) OR old = 'null' THEN old WHEN old IS NOT NULL THEN '"{MASK}"' END,
        CASE WHEN key = ANY(shown) OR new = 'null' THEN new WHEN new IS NOT NULL THEN '"{MASK}"' END
    )), '{{}}')
    FROM jsonb_object_keys(coalesce(after, before)) AS key, LATERAL (SELECT before->key AS old, after->key AS new) AS pair
    WHERE coalesce(old, 'null') <> coalesce(new, 'null')
$$;

CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    who jsonb := coalesce(nullif(current_setting('voiceassist.audit', true), ''), '{{}}');
    before jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - string_to_array(TG_ARGV[2], ' ') END;
    after jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - string_to_array(TG_ARGV[2], ' ') END;
    now timestamptz := clock_timestamp();
BEGIN
    IF before IS NOT DISTINCT FROM after THEN
        RETURN NULL;
    END IF;
    INSERT INTO audit_events
        (id, created_at, action, "table", object_id, actor_id, actor_email, address, trace_id, changes)
    VALUES (
        -- UUIDv7: milliseconds, version 7, random; uuidv7() is PostgreSQL 18's.
        encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
            placing substring(int8send((extract(epoch FROM now) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
            52, 1), 53, 1), 'hex')::uuid,
        now,
        CASE TG_OP WHEN 'INSERT' THEN 'create' WHEN 'UPDATE' THEN 'change' ELSE 'delete' END,
        TG_TABLE_NAME,
        coalesce(after, before)->>TG_ARGV[0],
        (who->>'actor_id')::uuid,
        coalesce(who->>'actor_email', ''),
        (who->>'address')::inet,
        coalesce(who->>'trace_id', ''),
        audit_changes(before, after, string_to_array(TG_ARGV[1], ' '))
    );
    RETURN NULL;
END $$;
-- Otherwise the trail would be written to a temporary table of the same name.
DO $$ BEGIN EXECUTE format('ALTER FUNCTION audit_row() SET search_path = %I, pg_temp', current_schema()); END $$;

CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_events can only be added to' USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION audit_is_not_passed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% can not be truncated, for that would not be audited: delete rows', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept();
-- ALWAYS: otherwise session_replication_role = replica would disable it.
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER audit_is_kept;
"""


def audited(table: str, operations: str, row_id: str, shown: str, ignored: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER audit AFTER {operations} ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION audit_row('{row_id}', '{shown}', '{ignored}')",
        f"DROP TRIGGER audit ON {table}",
    )


def not_truncated(table: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"CREATE TRIGGER audit_is_not_passed BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_passed(); "
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_is_not_passed",
        f"DROP TRIGGER audit_is_not_passed ON {table}",
    )


class Migration(migrations.Migration):
    dependencies = [
        ("core", "0002_indexes"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "action",
                    models.CharField(
                        choices=[
                            ("create", "Create"),
                            ("change", "Change"),
                            ("delete", "Delete"),
                            ("reveal", "Reveal"),
                            ("login", "Login"),
                            ("login_failed", "Login Failed"),
                            ("login_locked", "Login Locked"),
                            ("logout", "Logout"),
                            ("logoff", "Logoff"),
                        ],
                        max_length=20,
                    ),
                ),
                ("table", models.CharField(blank=True, max_length=63)),
                ("object_id", models.CharField(blank=True, max_length=64)),
                ("actor_id", models.UUIDField(null=True)),
                ("actor_email", models.CharField(blank=True, max_length=254)),
                ("address", models.GenericIPAddressField(null=True)),
                ("trace_id", models.CharField(blank=True, max_length=128)),
                ("changes", models.JSONField(default=dict)),
            ],
            options={
                "db_table": "audit_events",
                "ordering": ("-created_at", "-id"),
                "default_permissions": ("view",),
            },
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(
                condition=models.Q(("id__gt", uuid.UUID("00000000-0000-0000-0000-000000000000"))),
                fields=["created_at", "id"],
                name="audit_events_time",
            ),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["object_id", "created_at", "id"], name="audit_events_object"),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["actor_id", "created_at", "id"], name="audit_events_actor"),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["actor_email", "created_at", "id"], name="audit_events_email"),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["trace_id", "created_at", "id"], name="audit_events_trace"),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["address", "created_at", "id"], name="audit_events_address"),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["action", "created_at", "id"], name="audit_events_action"),
        ),
        migrations.RunSQL(
            FUNCTIONS,
            "DROP TRIGGER audit_is_kept ON audit_events;"
            "DROP FUNCTION audit_is_kept(); DROP FUNCTION audit_is_not_passed(); "
            "DROP FUNCTION audit_row(); DROP FUNCTION audit_changes(jsonb, jsonb, text[])",
        ),
        *(audited(table, *columns) for table, columns in AUDITED.items()),
        *(not_truncated(table) for table in (*AUDITED, "audit_events")),
    ]
