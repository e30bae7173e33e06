#!/usr/bin/env bash
# Receive the WAL of PostgreSQL continuously and copy it to $BACKUP_DIR/wal, encrypted. Runs until it is stopped.
#
# pg_receivewal writes what PostgreSQL commits to BACKUP_STAGING within seconds, and its replication slot makes PostgreSQL
# keep what was not received. Every BACKUP_WAL_INTERVAL seconds complete segments move to BACKUP_DIR, and the one that is
# being filled is copied there. So even without traffic at most that much is lost with both machines.
# Variables: those in common.sh, and
#   BACKUP_WAL_INTERVAL  seconds between two copies, by default 60
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

slot=voiceassist_backup
interval=${BACKUP_WAL_INTERVAL:-60}
[[ $interval =~ ^[0-9]+$ ]] && [ "$interval" -ge 1 ] && [ "$interval" -le 240 ] ||
    fail "BACKUP_WAL_INTERVAL must be a number of seconds from 1 to 240."
begin wal
require_programs pg_receivewal setpriv
staging=$BACKUP_STAGING/wal
target=$BACKUP_DIR/wal
run "Creating the folders" mkdir -p "$staging" "$target"
rm -f "$target"/*.new # of a run that was killed
started=$(date -u +%FT%TZ)
copied=0    # bytes
last_sum='' # of the partial segment that was copied
receiver=

# compress_and_encrypt SOURCE TARGET: write the file under another name and rename it, after its checksum.
compress_and_encrypt() {
    gzip -1 <"$1" | encrypt >"$2.new" || return 1
    sync "$2.new" || return 1
    if [[ $2 != *.partial.gz.age ]]; then # the one that is being filled is replaced too often
        (cd "$target" && sha256sum "${2##*/}.new" | sed 's/\.new$//' >"$2.sha256.new" && mv "$2.sha256.new" "$2.sha256") ||
            return 1
    fi
    copied=$((copied + $(stat -c %s "$2.new"))) && mv "$2.new" "$2"
}

# Copy what pg_receivewal has written. $is_complete says whether that was everything.
copy() {
    local file name sum
    is_complete=true
    for file in "$staging"/*; do
        name=${file##*/}
        # pg_receivewal may rename the partial file at any time.
        if [[ $name == *.partial ]]; then
            if ! cp "$file" "$work/partial" 2>"$errors"; then
                [ ! -e "$file" ] || fail "Copying the WAL failed: $(reason)"
                is_complete=false
                continue
            fi
            sum=$(sha256sum <"$work/partial")
            [ "$sum" != "$last_sum" ] || continue
            run "Copying the WAL" compress_and_encrypt "$work/partial" "$target/$name.gz.age"
            last_sum=$sum
        elif [ -f "$file" ]; then
            run "Copying the WAL" compress_and_encrypt "$file" "$target/$name.gz.age"
            rm -f "$target/$name.partial.gz.age" "$file"
        fi
    done
}

# Copy everything that was committed until now. Record the time, unless pg_receivewal does not keep up.
copy_until_now() {
    local now position try
    IFS='|' read -r now position < <(query "SELECT now(), pg_current_wal_flush_lsn()" 2>"$errors") || return 0
    for try in {1..20}; do
        kill -0 "$receiver" 2>/dev/null || return 0
        if [ "$(query "SELECT restart_lsn >= :'position' FROM pg_replication_slots WHERE slot_name = '$slot'" \
            --set position="$position" 2>"$errors")" = t ]; then
            copy
            # With a gap, the WAL restores nothing until the next base backup, so the alert has to fire.
            if $is_complete && [ ! -e "$BACKUP_DIR/.base_needed" ]; then
                record wal stream "$started" "$now" "$copied"
                copied=0
            fi
            return
        fi
        sleep 0.5
    done
    log "The WAL is not received as fast as it is written. Trying again."
    copy
}

stop() {
    [ -z "$receiver" ] || kill -INT "$receiver" 2>/dev/null || true
    wait "$receiver" || true
    copy
    exit 0
}

# After this, the WAL has a gap, so schedule.sh takes a base backup, which begins a new chain.
begin_anew() {
    rm -f "$staging"/*
    touch "$BACKUP_DIR/.base_needed"
    log "The WAL continues with a gap. Take a base backup, unless schedule.sh runs, which does."
}

# The WAL of another server, such as the one before an upgrade, has the same names. Keep it for its base backups.
separate_servers() {
    local server previous
    server=$(query "SELECT system_identifier FROM pg_control_system()" 2>"$errors") || return 0
    previous=$(cat "$target/.server" 2>/dev/null || true)
    if [ -n "$previous" ] && [ "$previous" != "$server" ]; then
        copy
        run "Keeping the WAL of the previous server" mv -T "$target" "$target.$previous"
        [ ! -d "$target.$server" ] || run "Continuing the WAL of this server" mv -T "$target.$server" "$target"
        run "Creating the folders" mkdir -p "$target"
        begin_anew
    fi
    run "Writing the identifier of the server" tee "$target/.server" <<<"$server" >/dev/null
}

while true; do
    separate_servers
    # PostgreSQL invalidates a slot that would keep more than max_slot_wal_keep_size.
    if [ "$(query "SELECT pg_drop_replication_slot(slot_name) IS NOT NULL FROM pg_replication_slots
        WHERE slot_name = '$slot' AND wal_status = 'lost'" 2>"$errors" || true)" ]; then
        begin_anew
    fi
    run "Creating the replication slot" pg_receivewal --create-slot --if-not-exists --slot "$slot" --no-password
    touch "$work/began"
    # It ends if this script is killed. Otherwise it would keep the lock and receive WAL that nobody copies.
    setpriv --pdeathsig TERM pg_receivewal --directory "$staging" --slot "$slot" --synchronous --no-loop \
        --no-password 2>"$work/receiver" &
    receiver=$!
    trap stop TERM INT
    log "Receiving the WAL."
    while kill -0 "$receiver" 2>/dev/null; do
        sleep 1
        copy_until_now
        sleep "$interval" 9>&- & # without the lock, which must not outlive this script
        wait -n "$receiver" $! || true
    done
    wait "$receiver" || true
    copy
    log "pg_receivewal ended: $(errors=$work/receiver && reason). Trying again in 5 seconds."
    # If it received nothing although the server responds, the server lacks what follows the last file, because it was
    # restored or promoted. Everything has been copied, so the next start may begin with what the server has.
    if [ -z "$(find "$staging" -type f -newer "$work/began" -print -quit)" ] && query "SELECT 1" >/dev/null 2>&1; then
        begin_anew
    fi
    sleep 5
done
