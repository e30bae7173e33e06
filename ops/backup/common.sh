# shellcheck shell=bash
# Functions and checks that the scripts in this folder share. docs/BACKUP.md describes them.
#
# Variables:
#   BACKUP_DIR               where backups are stored: a folder or anything that is mounted there
#   BACKUP_STAGING           a folder on an encrypted disk of this machine, for files before they are encrypted
#   BACKUP_RECIPIENT         public keys of age, separated by spaces or commas. Every one of them can decrypt the backups
#   BACKUP_PASSWORD_FILE     a file with the password of voiceassist_backup. Or PGPASSFILE, or PGPASSWORD
#   PGHOST, PGPORT, PGDATABASE, PGUSER, PGSSLMODE, PGSSLROOTCERT   libpq's

set -Eeuo pipefail
unset CDPATH # with it, cd prints the folder
trap 'log "Line $LINENO failed, so this ends."' ERR # for what no message foresees
umask 077 # every file is readable by its owner only
export LC_ALL=C
program=${0##*/}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
errors=/dev/null

log() { printf '%s: %s\n' "$program" "$*" >&2; }

fail() {
    log "$*"
    exit 1
}

# Print the line of the last command's errors that says what went wrong. The others may quote data.
reason() {
    local line
    line=$(grep -m 1 -i -E 'error|fatal|no space|denied' "$errors" || tail -n 1 "$errors")
    printf '%s' "${line:-no reason was given. Is the disk of ${TMPDIR:-/tmp} full?}"
}

# run WHAT COMMAND…: run a command or a function. If it fails, say what failed and why, and exit.
run() {
    local what=$1
    shift
    "$@" 2>"$errors" || fail "$what failed: $(reason)"
}

require() {
    local name
    for name in "$@"; do
        [ -n "${!name:-}" ] || fail "$name is not set. See docs/BACKUP.md."
    done
}

require_programs() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null || fail "The program $name is not installed, or not in PATH."
    done
}

# begin NAME: check what every backup needs, and make the temporary folder $work. $NAME is also the name of a lock, so
# that a second run of the same kind is refused.
begin() {
    require BACKUP_DIR BACKUP_STAGING BACKUP_RECIPIENT
    require_programs age psql sha256sum gzip flock
    mkdir -p "$BACKUP_DIR" "$BACKUP_STAGING" || fail "BACKUP_DIR and BACKUP_STAGING must be folders that can be written."
    exec 9>"$BACKUP_DIR/.$1.lock" || fail "$BACKUP_DIR can't be written."
    flock --nonblock 9 || fail "Another $1 is running. Nothing was done."
    work=$BACKUP_STAGING/$1.work
    rm -rf "$work" # of a run that was killed
    mkdir "$work" || fail "$BACKUP_STAGING can't be written."
    errors=$(mktemp) # not in the staging folder, whose disk may be full
    trap 'rm -rf "$work" "$errors"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    tr ' ,' '\n\n' <<<"$BACKUP_RECIPIENT" | sed '/^$/d' >"$work/recipients"
    encrypt </dev/null >/dev/null 2>"$errors" || fail "BACKUP_RECIPIENT is not a public key of age: $(reason)"
    connect_as_backup_role
}

connect_as_backup_role() {
    local password
    export PGUSER=${PGUSER:-voiceassist_backup} PGDATABASE=${PGDATABASE:-voiceassist} PGCONNECT_TIMEOUT=10
    export PGAPPNAME=voiceassist-backup
    if [ -n "${BACKUP_PASSWORD_FILE:-}" ]; then
        [ -r "$BACKUP_PASSWORD_FILE" ] || fail "BACKUP_PASSWORD_FILE can't be read."
        # Not PGPASSWORD, because /proc and `docker inspect` show the environment.
        password=$(<"$BACKUP_PASSWORD_FILE")
        printf '*:*:*:*:%s\n' "$(sed 's/[\\:]/\\&/g' <<<"$password")" >"$work/pgpass"
        export PGPASSFILE=$work/pgpass
    fi
}

encrypt() { age --encrypt --recipients-file "$work/recipients"; }

# query SQL [OPTION…]: print the result of a query, without alignment.
query() { psql --no-psqlrc --no-password --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "${@:2}" <<<"$1"; }

# Print the folder of the newest complete backup of a kind, if there is one.
newest() {
    local folder newest=''
    for folder in "$BACKUP_DIR/$1"/2*Z; do # sorted by name, which is the time
        [ ! -d "$folder" ] || newest=$folder
    done
    printf '%s' "$newest"
}

product_version() { sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$here/../../voiceassist/__init__.py"; }

# record KIND NAME STARTED FINISHED BYTES: add the backup to the table `backups`, from which the alerts are computed.
record() {
    run "Recording the backup in the table \`backups\`" query "
        INSERT INTO backups (kind, name, started_at, finished_at, size, product_version)
        VALUES (:'kind', :'name', :'started', :'finished', :'size', :'version')
        ON CONFLICT (kind, name) DO UPDATE
            SET finished_at = excluded.finished_at, product_version = excluded.product_version,
                size = backups.size + excluded.size" \
        --set kind="$1" --set name="$2" --set started="$3" --set finished="$4" --set size="$5" \
        --set version="$(product_version)"
}
