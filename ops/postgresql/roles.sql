-- Creates the two roles of VoiceAssist's database, or corrects them. Run it with psql 14 or newer in the database and
-- schema of the application, which must contain nothing else, as a superuser or as the role that owns the database and
-- may create roles. It changes everything or nothing, and can be run again. Then run `manage.py migrate`.
--
--   voiceassist_migrate  owns the tables. Only `manage.py migrate` connects as this role
--   voiceassist_app      is the role of the application. `migrate` grants it what core/database_roles.py lists
--
-- docker-compose.yml runs this file when it creates the volume. The environment variables that it reads name the files
-- with the passwords. Without these variables the passwords stay as they are: set them with psql's \password, which
-- sends only a hash. Development and the tests run this file too.
\set ON_ERROR_STOP on
\set QUIET on
\getenv migrate_password_file POSTGRES_MIGRATE_PASSWORD_FILE
\getenv app_password_file POSTGRES_APP_PASSWORD_FILE

\if :{?migrate_password_file}
-- PostgreSQL would accept an empty password, with which nobody can log in.
\set is_missing `grep -q . "$POSTGRES_MIGRATE_PASSWORD_FILE" && grep -q . "$POSTGRES_APP_PASSWORD_FILE" && echo false || echo true`
\if :is_missing
DO 'BEGIN RAISE EXCEPTION ''A file with a password is missing or empty. Nothing was changed.''; END';
\endif
\set migrate_password `cat "$POSTGRES_MIGRATE_PASSWORD_FILE"`
\set app_password `cat "$POSTGRES_APP_PASSWORD_FILE"`
-- Keeps the passwords out of PostgreSQL's log and of pg_stat_statements. PostgreSQL chooses the transactions that it
-- logs when they begin, so this comes first. Only superusers may set these.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_duration_sample = -1;
SET log_transaction_sample_rate = 0;
SET log_min_error_statement = 'panic';
SET pg_stat_statements.track_utility = off;
\endif

BEGIN;
-- Changing the owner locks each table. A request that waits for a lock checks for a deadlock after a second and may be
-- the one that fails, so this gives up sooner. If transactions use the tables in all tries, nothing is changed.
SET LOCAL lock_timeout = '500ms';

DO $$
DECLARE
    role_name text;
    object text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['voiceassist_migrate', 'voiceassist_app'] LOOP
        IF to_regrole(role_name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I', role_name);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN', role_name);
        -- Only superusers may name these attributes, even to remove them.
        IF EXISTS (
            SELECT FROM pg_roles WHERE rolname = role_name
            AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
        ) THEN
            EXECUTE format(
                'ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role_name
            );
        END IF;
    END LOOP;
    -- Hosted PostgreSQL has no superuser, and other roles may give objects only to roles that they are members of.
    IF NOT pg_has_role('voiceassist_migrate', 'USAGE') THEN
        EXECUTE format('GRANT voiceassist_migrate TO %I', current_user);
    END IF;

    -- The application creates nothing, not even temporary tables.
    EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC, voiceassist_app', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO voiceassist_migrate, voiceassist_app', current_database());
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, voiceassist_app', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO voiceassist_migrate', current_schema());
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO voiceassist_app', current_schema());
    -- For a table between its creation and the end of `migrate`, because triggers of running servers may use it.
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE voiceassist_migrate IN SCHEMA %I '
        'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO voiceassist_app', current_schema()
    );
    EXECUTE format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE voiceassist_migrate IN SCHEMA %I '
        'GRANT USAGE ON SEQUENCES TO voiceassist_app', current_schema()
    );

    -- Tables, views and sequences of an older installation. REASSIGN OWNED can't be used, because it refuses the
    -- objects of the superuser that created the cluster. The sequence of a column follows its table.
    FOR try IN 1..10 LOOP
        BEGIN
            FOR object IN
                SELECT oid::regclass FROM pg_class
                WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
                AND relowner <> 'voiceassist_migrate'::regrole
                AND NOT EXISTS (
                    SELECT FROM pg_depend
                    WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i', 'e')
                )
            LOOP
                EXECUTE format('ALTER TABLE %s OWNER TO voiceassist_migrate', object);
            END LOOP;
            FOR object IN
                SELECT oid::regprocedure FROM pg_proc
                WHERE pronamespace = quote_ident(current_schema())::regnamespace AND proowner <> 'voiceassist_migrate'::regrole
                AND NOT EXISTS (
                    SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e'
                )
            LOOP
                EXECUTE format('ALTER ROUTINE %s OWNER TO voiceassist_migrate', object);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN  -- which releases the locks of this try
            IF try = 10 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.5 + random());
        END;
    END LOOP;
    -- Until `migrate` grants the rest, so that the application can report that it is pending.
    IF to_regclass(quote_ident(current_schema()) || '.django_migrations') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON %I.django_migrations TO voiceassist_app', current_schema());
    END IF;
END $$;

\if :{?migrate_password_file}
ALTER ROLE voiceassist_migrate PASSWORD :'migrate_password';
ALTER ROLE voiceassist_app PASSWORD :'app_password';
\endif
COMMIT;
