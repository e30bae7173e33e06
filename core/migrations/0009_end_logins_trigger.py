"""End all logins of an account that is deactivated or loses staff access, by plain SQL and bulk updates too.

A login is over when `users.logins_ended_at` has changed since (core.auth.session_expiry). The column never goes back.
Otherwise saving a user who was loaded before the logins ended would revive them, and so would setting `is_active` again.
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION end_logins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.logins_ended_at := greatest(NEW.logins_ended_at, OLD.logins_ended_at);
    IF (OLD.is_active AND NOT NEW.is_active) OR (OLD.is_staff AND NOT NEW.is_staff) THEN
        -- Another value even if the server's clock was set back.
        NEW.logins_ended_at := greatest(clock_timestamp(), NEW.logins_ended_at + interval '1 microsecond');
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER end_logins BEFORE UPDATE OF is_active, is_staff, logins_ended_at ON users
    FOR EACH ROW EXECUTE FUNCTION end_logins();
-- ALWAYS: otherwise session_replication_role = replica would disable it.
ALTER TABLE users ENABLE ALWAYS TRIGGER end_logins;
"""


class Migration(migrations.Migration):
    dependencies = [("core", "0008_audit_events_position")]

    operations = [migrations.RunSQL(CREATE, "DROP TRIGGER end_logins ON users; DROP FUNCTION end_logins()")]
