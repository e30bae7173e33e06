#!/usr/bin/env bash
# Restore a backup into a fresh server. docs/BACKUP.md has the steps before and after it.
#
#   restore.sh BACKUP --identity FILE --into DATA_FOLDER [--to TIME]   a base backup and the WAL, as the user that runs
#                                                                      PostgreSQL, which must not run
#   restore.sh BACKUP --identity FILE                                  a dump, into the empty database that libpq's
#                                                                      variables name, as a superuser
# TIME is like '2026-11-27 10:00Z'. Nothing is changed if the target is not empty or if anything is wrong with the backup.
source "$(dirname "${BASH_SOURCE[0]}")/restore_common.sh"

usage() { fail "Usage: $program BACKUP --identity FILE [--into DATA_FOLDER [--to TIME]]"; }

restore_base() {
    local last
    require_programs pg_ctl postgres psql
    [ "$(id -u)" != 0 ] || fail "PostgreSQL refuses to run as root. Run this as the user that owns its data, such as postgres."
    ! mountpoint -q "$into" 2>/dev/null || fail "$into is a mount point, which can't be replaced. Name a folder in it."
    [ ! -e "$into" ] || [ -z "$(ls -A "$into")" ] || fail "$into is not empty. Nothing was changed."
    folder=${into%/}.restoring
    trap remove_folder EXIT
    rm -rf "$folder" # of a run that was interrupted
    "$here/unpack.sh" "$backup" "$identity" "$folder" || exit 1
    [ -z "$to" ] || printf "recovery_target_time = '%s'\nrecovery_target_action = promote\n" "$to" >>"$folder/recovery.conf"
    log "Recovering from the WAL${to:+ until $to}."
    pg_ctl start --pgdata "$folder/data" --silent --wait --timeout 86400 --log "$folder/log" \
        --options "-c config_file='$folder/recovery.conf'" >/dev/null 2>&1 || true
    until [ "$(query_restored "SELECT NOT pg_is_in_recovery()")" = t ]; do # read-only queries work before its end
        pg_ctl status --pgdata "$folder/data" >/dev/null 2>&1 ||
            fail "The recovery failed: $(recovery_error). Nothing was restored."
        sleep 0.5
    done
    last=$(query_restored "SELECT pg_last_xact_replay_timestamp()")
    run "Stopping the server" pg_ctl stop --pgdata "$folder/data" --silent --mode fast
    [ ! -d "$into" ] || run "Replacing the empty folder" rmdir "$into"
    run "Renaming the restored folder" mv "$folder/data" "$into"
    log "Restored $into. The last change is of ${last:-$(value finished_at)}. Start PostgreSQL on it, then take a base backup."
}

# Print why the server ended: first of all a damaged file, of which PostgreSQL itself says "command not executable".
recovery_error() {
    grep -m 1 '^fetch_wal.sh: ' "$folder/log" || grep FATAL "$folder/log" | grep -v -m 1 'database system is' || reason
}

query_restored() {
    PGHOST=$folder/socket PGPORT=5432 PGUSER=$(value superuser) PGDATABASE=$(value database) query "$1" 2>"$errors" || true
}

remove_folder() {
    rm -f "$errors"
    [ ! -e "$folder/data/postmaster.pid" ] || pg_ctl stop --pgdata "$folder/data" --silent --mode immediate || true
    rm -rf "$folder"
}

restore_dump() {
    local objects
    require_programs pg_restore psql
    [ -z "$into$to" ] || fail "A dump is restored into a database, without --into and --to."
    objects=$(query "SELECT count(*) FROM pg_class WHERE relnamespace NOT IN
        ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)" 2>"$errors") ||
        fail "The database can't be reached: $(reason)"
    [ "$objects" = 0 ] || fail "The database is not empty. Nothing was changed."
    work=$(mktemp -d -p "${BACKUP_STAGING:-${TMPDIR:-/tmp}}") # an encrypted disk with space for the dump
    trap 'rm -rf "$errors" "$work"' EXIT
    run "Decrypting the dump" decrypt_dump
    # First the roles, so that the tables get their owner and privileges.
    for file in roles roles_backup; do
        run "Creating the roles" psql --no-psqlrc --no-password --quiet --file "$here/../postgresql/$file.sql"
    done
    # In parallel, which needs the dump as a file. The triggers are created after the rows, so they record nothing.
    run "pg_restore" pg_restore --exit-on-error --no-password --jobs "$(nproc)" --dbname "$PGDATABASE" "$work/dump"
    run "ANALYZE" query "ANALYZE"
    log "Restored the database $PGDATABASE as it was at $(value taken_at). Take a base backup."
}

decrypt_dump() { decrypt "$backup/database.dump.age" >"$work/dump"; }

given_backup=${1:-} given_identity='' into='' to=''
shift || usage
while [ $# -ge 2 ]; do
    case $1 in
        --identity) given_identity=$2 ;;
        --into) into=$2 ;;
        --to) to=$2 ;;
        *) usage ;;
    esac
    shift 2
done
[ $# = 0 ] && [ -n "$given_identity" ] || usage
[ -z "$to" ] || to=$(date -u -d "$to" '+%F %T.%6N+00' 2>/dev/null) ||
    fail "--to needs a time, such as '2026-11-27 10:00Z'. Nothing was changed."
open_backup "$given_backup" "$given_identity"
case $kind in
    base) [ -n "$into" ] || fail "A base backup needs --into DATA_FOLDER." && restore_base ;;
    dump) require PGDATABASE && restore_dump ;;
    *) fail "docs/BACKUP.md describes how to restore snapshots of Qdrant." ;;
esac
