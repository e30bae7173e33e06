-- Creates the role of the backups, or corrects it. Run it with psql 14 or newer as a superuser, in the database and
-- schema of the application. It can be run again.
--
--   voiceassist_backup  reads every table, and copies the data files and the WAL (REPLICATION). It changes nothing but
--                       the table `backups`
--
-- docker-compose.yml runs this file when it creates the volume. POSTGRES_BACKUP_PASSWORD_FILE names the file with the
-- password. Without the variable the password stays as it is: set it with psql's \password, which sends only a hash. A
-- role without a password can't log in. Hosted PostgreSQL has no superuser and no base backups: docs/BACKUP.md.
\set ON_ERROR_STOP on
\set QUIET on
\getenv backup_password_file POSTGRES_BACKUP_PASSWORD_FILE

\if :{?backup_password_file}
-- PostgreSQL would accept an empty password, with which nobody can log in.
\set is_missing `grep -q . "$POSTGRES_BACKUP_PASSWORD_FILE" && echo false || echo true`
\if :is_missing
DO 'BEGIN RAISE EXCEPTION ''The file with the password is missing or empty. Nothing was changed.''; END';
\endif
\set backup_password `cat "$POSTGRES_BACKUP_PASSWORD_FILE"`
-- Keeps the password out of PostgreSQL's log and of pg_stat_statements, as in roles.sql.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_duration_sample = -1;
SET log_transaction_sample_rate = 0;
SET log_min_error_statement = 'panic';
SET pg_stat_statements.track_utility = off;
\endif

BEGIN;
DO $$
BEGIN
    IF to_regrole('voiceassist_backup') IS NULL THEN
        CREATE ROLE voiceassist_backup;
    END IF;
    ALTER ROLE voiceassist_backup LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
    GRANT pg_read_all_data TO voiceassist_backup;
    -- In a database that was migrated before this role existed. Otherwise `migrate` grants it.
    IF to_regclass(quote_ident(current_schema()) || '.backups') IS NOT NULL THEN
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.backups TO voiceassist_backup', current_schema());
    END IF;
END $$;

\if :{?backup_password_file}
ALTER ROLE voiceassist_backup PASSWORD :'backup_password';
\endif
COMMIT;
