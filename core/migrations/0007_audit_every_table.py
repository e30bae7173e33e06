"""Let nothing bypass the audit trail, make the removal of events visible, and keep PHI out of PostgreSQL's statistics.

1. All triggers are `ENABLE ALWAYS`. Otherwise `session_replication_role = replica` disables them.
2. Permissions and content types are audited, because renaming a permission grants it to the holders of another one.
3. A column that is added to `sessions` is audited unless it is ignored. A condition replaces the list of columns.
4. Each event has a position, and `audit_checkpoints` has the digest of the events up to a position.
5. PHI columns have no statistics, because ANALYZE copies frequent values to pg_statistic, which outlive their rows.

`position` and `audit_checkpoints` are not in Django's models, because positions belong to one database: `loaddata` into
another database must number the events again. Migration 0008 adds the index on the position.
"""

from django.db import migrations

# A request that waits for a lock checks for a deadlock after a second (deadlock_timeout) and may be the one that fails.
# This migration gives up sooner. `migrate` then rolls it back and retries it.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '500ms'"

EVERY = "INSERT OR UPDATE OR DELETE"
ALWAYS = "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"
AUDIT = "CREATE TRIGGER audit AFTER {operations} ON {table} FOR EACH ROW EXECUTE FUNCTION audit_row({arguments})"
NOT_TRUNCATED = """
CREATE TRIGGER audit_is_not_passed BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_passed();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_is_not_passed
"""

AUDITED_BEFORE = ("users", "messages", "users_groups", "users_user_permissions", "auth_group", "auth_group_permissions")
NEWLY_AUDITED = {
    "auth_permission": "'id', 'id name content_type_id codename', ''",
    "django_content_type": "'id', 'id app_label model', ''",
}

SESSION_ARGUMENTS = "'id', 'id created_at user_id mode is_archived ended_at', 'updated_at message_count'"
# True if another column than the ignored ones was changed. `*<>` compares the stored bytes, so it works for every type.
# Converting the rows to JSON, as audit_row does, takes three times as long, at each append of a message.
IGNORED = '{"updated_at": null, "message_count": null}'
IS_CHANGED = f"jsonb_populate_record(NEW, '{IGNORED}') *<> jsonb_populate_record(OLD, '{IGNORED}')"
SESSIONS = f"""
CREATE TRIGGER audit AFTER INSERT OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION audit_row({SESSION_ARGUMENTS});
CREATE TRIGGER audit_update AFTER UPDATE ON sessions
    FOR EACH ROW WHEN ({IS_CHANGED}) EXECUTE FUNCTION audit_row({SESSION_ARGUMENTS});
ALTER TABLE sessions ENABLE ALWAYS TRIGGER audit;
ALTER TABLE sessions ENABLE ALWAYS TRIGGER audit_update
"""
DROP_SESSIONS = "DROP TRIGGER audit ON sessions; DROP TRIGGER audit_update ON sessions"
SESSIONS_BEFORE = f"""
CREATE TRIGGER audit
    AFTER INSERT OR UPDATE OF id, created_at, user_id, title, mode, is_archived, context, ended_at OR DELETE
    ON sessions FOR EACH ROW EXECUTE FUNCTION audit_row({SESSION_ARGUMENTS})
"""

KEPT = """
CREATE OR REPLACE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION {message} USING ERRCODE = 'insufficient_privilege';
END $$
"""
KEPT_NOW = "'Audit events cannot be changed or deleted. Only INSERT is allowed on %.', TG_TABLE_NAME"
KEPT_BEFORE = "'Audit events cannot be changed or deleted. Only INSERT is allowed on audit_events.'"

# Events stored before this migration have the position 0. pg_current_xact_id() comes first, so that a transaction has
# its id before it takes a position: core.audit_checkpoints relies on it. DEFAULT 0 does not rewrite the table.
POSITION = """
CREATE SEQUENCE audit_events_position;
ALTER TABLE audit_events ADD COLUMN position bigint NOT NULL DEFAULT 0;
ALTER TABLE audit_events ALTER COLUMN position
    SET DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit_events_position') END;
ALTER SEQUENCE audit_events_position OWNED BY audit_events.position
"""
CHECKPOINTS = """
CREATE TABLE audit_checkpoints (
    number bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    position bigint NOT NULL,
    last_event uuid NOT NULL,
    events bigint NOT NULL,
    digest text NOT NULL
);
CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION audit_is_kept();
ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER audit_is_kept
"""
# Without it a false checkpoint with the highest number, the highest position or an infinite time would be the last one.
FOLLOWS = """
CREATE FUNCTION audit_checkpoint_follows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    SELECT number, position, last_event INTO last FROM audit_checkpoints ORDER BY number DESC LIMIT 1;
    IF (NEW.number = coalesce(last.number, 0) + 1
        AND NEW.created_at BETWEEN '2000-01-01' AND clock_timestamp() + interval '1 day'
        AND (last IS NULL OR (NEW.position, NEW.last_event) > (last.position, last.last_event))
        AND NEW.position BETWEEN 0 AND coalesce(pg_sequence_last_value('audit_events_position'), 0)
        AND NEW.events > 0) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'The checkpoint does not follow the last one.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION audit_checkpoint_follows() SET search_path = %I, pg_temp', current_schema());
END $$;
CREATE TRIGGER audit_checkpoint_follows BEFORE INSERT ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_follows();
ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER audit_checkpoint_follows
"""
# psycopg can't load an infinite time, so one such event would break the page of the trail, and could not be deleted.
# NOT VALID: stored events are not read, which would block requests.
TIME = """
ALTER TABLE audit_events ADD CONSTRAINT audit_events_created_at
    CHECK (created_at BETWEEN '2000-01-01Z' AND '9999-01-01Z') NOT VALID
"""
# Roles that may add events may add checkpoints, and nothing else, whatever the owner's default privileges are.
GRANTS = """
DO $$
DECLARE role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'audit_checkpoints'::regclass AND grantee <> relowner
    LOOP
        EXECUTE format('REVOKE ALL ON audit_checkpoints FROM %s', role);
    END LOOP;
    FOR role IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        FROM pg_class, aclexplode(relacl)
        WHERE oid = 'audit_events'::regclass AND privilege_type = 'INSERT' AND grantee <> relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT ON audit_checkpoints TO %s', role);
        EXECUTE format('GRANT USAGE ON SEQUENCE audit_events_position TO %s', role);
    END LOOP;
END $$
"""

PHI = {
    "sessions": ("title", "context"),
    "messages": ("content", "audio_url", "tool_calls", "tool_results", "metadata"),
}
# Before PostgreSQL 18 only a superuser can delete statistics. Setting the type of a column, even to the type that it
# has, deletes them.
DELETE_STATISTICS = """
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        PERFORM pg_clear_attribute_stats(current_schema(), '{table}', '{column}', false);
    ELSE
        EXECUTE (
            SELECT format('ALTER TABLE {table} ALTER COLUMN {column} TYPE %s', format_type(atttypid, atttypmod))
            FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{column}'
        );
    END IF;
END $$
"""


def sql(forwards: str, backwards: str = migrations.RunSQL.noop) -> migrations.RunSQL:
    return migrations.RunSQL(forwards, backwards)


def without_statistics(table: str, column: str) -> list[migrations.RunSQL]:
    target = f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS"
    return [sql(f"{target} 0", f"{target} -1"), sql(DELETE_STATISTICS.format(table=table, column=column))]


class Migration(migrations.Migration):
    dependencies = [
        ("core", "0006_account_protection"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        sql(LOCK_TIMEOUT),
        # PostgreSQL before 18 does not set the type of a column that a trigger refers to.
        sql("DROP TRIGGER audit ON sessions", SESSIONS_BEFORE),
        *(operation for table, names in PHI.items() for name in names for operation in without_statistics(table, name)),
        sql(SESSIONS, DROP_SESSIONS),
        *(
            sql(ALWAYS.format(table=table, name="audit"), f"ALTER TABLE {table} ENABLE TRIGGER audit")
            for table in AUDITED_BEFORE
        ),
        *(
            sql(AUDIT.format(operations=EVERY, table=table, arguments=arguments), f"DROP TRIGGER audit ON {table}")
            for table, arguments in NEWLY_AUDITED.items()
        ),
        *(sql(ALWAYS.format(table=table, name="audit")) for table in NEWLY_AUDITED),
        sql(KEPT.format(message=KEPT_NOW), KEPT.format(message=KEPT_BEFORE)),
        sql(CHECKPOINTS, "DROP TABLE audit_checkpoints"),
        *(
            sql(NOT_TRUNCATED.format(table=table), f"DROP TRIGGER audit_is_not_passed ON {table}")
            for table in (*NEWLY_AUDITED, "audit_checkpoints")
        ),
        sql(FOLLOWS, "DROP TRIGGER audit_checkpoint_follows ON audit_checkpoints; DROP FUNCTION audit_checkpoint_follows()"),
        sql(POSITION, "ALTER TABLE audit_events DROP COLUMN position"),
        sql(TIME, "ALTER TABLE audit_events DROP CONSTRAINT audit_events_created_at"),
        sql(GRANTS),
    ]
