#!/usr/bin/env bash
# Decrypt and verify a base backup, and prepare its recovery: unpack.sh BACKUP IDENTITY FOLDER.
#
# Creates FOLDER/data, the data folder, and FOLDER/recovery.conf, with which `postgres -D FOLDER/data
# -c config_file=FOLDER/recovery.conf` recovers it from the WAL beside the backup. restore.sh and `manage.py drill` do
# that. Nothing is created before all checksums are right, the identity fits and no segment of the WAL is missing.
source "$(dirname "${BASH_SOURCE[0]}")/restore_common.sh"

# Print the names of the WAL files since the start of the backup, without the timeline (the first 8 digits) and the rest.
segments() {
    find "$wal" -maxdepth 1 -name '*.gz.age' -printf '%f\n' 2>/dev/null |
        sed -n 's/^[0-9A-F]\{8\}\([0-9A-F]\{16\}\)\(\.partial\)\{0,1\}\.gz\.age$/\1/p' | sort -u |
        awk -v start="${start_wal:8}" '$0 >= start'
}

check_wal() {
    local name number expected='' per_log=$((16#100000000 / segment_size))
    for name in "${start_wal:8}" $(segments); do
        number=$((16#${name:0:8} * per_log + 16#${name:8}))
        if [ $number -gt "${expected:-$number}" ]; then
            echo "error: the WAL before ????????$name is missing in $wal, so the changes after it can't be restored" >&2
            return 1
        fi
        expected=$((number + 1))
    done
    # The segment that was being filled, .partial, has no checksum. age finds out whether it was changed.
    find "$wal" -maxdepth 1 -name '*.sha256' -printf '%f\n' 2>/dev/null |
        awk -v start="${start_wal:8}" 'substr($0, 9, 16) >= start' |
        while read -r name; do cat "$wal/$name"; done >"$checksums"
    [ ! -s "$checksums" ] || (cd "$wal" && verify_sums "$checksums")
}

[ $# = 3 ] || fail "Usage: $program BACKUP IDENTITY FOLDER"
open_backup "$1" "$2"
folder=$3
[ "$kind" = base ] || fail "$backup is not a base backup."
require_programs pg_controldata tar awk
[ ! -e "$folder" ] || [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty. Nothing was changed."
wal=$(cd "$backup/../.." && pwd)/wal
server=$(value system_identifier)
[ -z "$server" ] || [ ! -d "$wal.$server" ] || wal=$wal.$server # the server was replaced since
[ -r "$wal" ] && [ -x "$wal" ] || fail "$wal can't be read, so the changes after the backup can't be restored. Copy it there, \
or create an empty folder to do without them. Nothing was changed."
start_wal=$(value start_wal)
segment_size=$(value wal_segment_size)
checksums=$(mktemp)
trap 'rm -f "$checksums" "$errors"' EXIT
run "The check of the WAL's checksums" check_wal

run "Creating the folders" mkdir -p "$folder/data"
data=$folder/data
unpack() { decrypt "$backup/$1" | tar --extract --gzip --directory "$2"; }
run "Unpacking the base backup" unpack base.tar.gz.age "$data"
run "Unpacking the WAL of the base backup" unpack pg_wal.tar.gz.age "$data/pg_wal"
touch "$data/recovery.signal"
mkdir "$folder/socket"

# The server's own configuration is not used, because it may name files and libraries that this machine lacks. On a
# standby these limits must not be lower than on the primary.
setting() { pg_controldata "$data" | sed -n "s/^$1 setting: *//p"; }
quoted() { printf "'%s'" "${1//\'/\'\'}"; }
printf '%s\n' "local all all trust" >"$folder/pg_hba.conf"
cat >"$folder/recovery.conf" <<END
hot_standby = off # otherwise recovery stops for ever where the server's limits were raised
restore_command = $(quoted "'$here/fetch_wal.sh' '$wal' '$identity' '%f' '%p'")
listen_addresses = ''
port = 5432
unix_socket_directories = $(quoted "$folder/socket")
hba_file = $(quoted "$folder/pg_hba.conf")
log_min_messages = log
log_error_verbosity = terse
log_min_error_statement = panic
max_connections = $(setting max_connections)
max_worker_processes = $(setting max_worker_processes)
max_wal_senders = $(setting max_wal_senders)
max_prepared_transactions = $(setting max_prepared_xacts)
max_locks_per_transaction = $(setting max_locks_per_xact)
END
