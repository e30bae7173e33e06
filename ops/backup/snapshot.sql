-- Prints the manifest of a backup as JSON. Counts the rows in one snapshot, which the dump uses too.
--
-- `counts_lsn` is the position in the WAL at which recovery has exactly these rows. It exists if no transaction was
-- writing when the position was read: none held the lock on its id, and the same ones had ended before and afterwards.
-- Otherwise this prints nothing, so that the caller tries again, unless `need_quiet` is false.
\set ON_ERROR_STOP on
\set QUIET on
\pset tuples_only on
\pset format unaligned
SELECT pg_current_snapshot() AS snapshot_before, pg_current_wal_insert_lsn() AS lsn, clock_timestamp() AS taken_at \gset
SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock') AS has_no_writer \gset
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT :'has_no_writer'::boolean AND pg_current_snapshot()::text = :'snapshot_before'
        AND pg_snapshot_xmin(pg_current_snapshot()) = pg_snapshot_xmax(pg_current_snapshot()) AS is_quiet,
    pg_export_snapshot() AS snapshot \gset
SELECT NOT (:'is_quiet'::boolean OR NOT :'need_quiet'::boolean) AS must_wait \gset
\if :must_wait
\quit
\endif

\if :is_dump
\setenv SNAPSHOT :snapshot
\! bash -o pipefail -c 'pg_dump --format=custom --no-password --snapshot="$SNAPSHOT" 2>>"$ERRORS" | age --encrypt --recipients-file "$RECIPIENTS" >"$DUMP.new" 2>>"$ERRORS" && mv "$DUMP.new" "$DUMP"'
\endif

SELECT string_agg(format('SELECT %L AS name, count(*) AS rows FROM %s', oid::regclass, oid::regclass), ' UNION ALL ')
    AS counting
FROM pg_class
WHERE relkind IN ('r', 'p') AND NOT relispartition AND relpersistence = 'p'
    AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)
\gset

SELECT json_build_object(
    'kind', :'kind',
    'name', :'name',
    'product_version', :'product_version',
    'postgresql_version', current_setting('server_version'),
    'database', current_database(),
    'schema', current_schema(),
    'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
    'started_at', :'started_at',
    'taken_at', :'taken_at'::timestamptz,
    'finished_at', clock_timestamp(),
    'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'start_lsn', nullif(:'start_lsn', ''),
    'end_lsn', nullif(:'end_lsn', ''),
    'start_wal', CASE WHEN :'start_lsn' <> '' THEN pg_walfile_name(nullif(:'start_lsn', '')::pg_lsn) END,
    'wal_segment_size', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
    'counts_lsn', CASE WHEN :'is_quiet'::boolean THEN :'lsn' END,
    'row_counts', (SELECT json_object_agg(name, rows ORDER BY name) FROM (:counting) AS counted),
    'migrations', (SELECT json_agg(app || '.' || name ORDER BY app, name) FROM django_migrations),
    'last_audit_event', (SELECT json_build_object('position', position, 'id', id, 'created_at', created_at)
        FROM audit_events ORDER BY position DESC, id DESC LIMIT 1),
    'last_audit_checkpoint', (SELECT json_build_object('number', number, 'digest', digest, 'created_at', created_at)
        FROM audit_checkpoints ORDER BY number DESC LIMIT 1)
) AS manifest \gset
\echo :manifest
COMMIT;
