#!/usr/bin/env bash
# Take one backup and remove expired ones: backup.sh base|dump|qdrant. docs/BACKUP.md describes what each contains.
#
# A backup is a folder $BACKUP_DIR/KIND/TIME with encrypted files, manifest.json and SHA256SUMS. It is written under
# another name and renamed when it is complete, so an interrupted backup is never mistaken for a whole one.
# Variables: those in common.sh, and
#   BACKUP_DAYS                      days after which backups are removed, by default 30
#   QDRANT_URL, QDRANT_API_KEY_FILE  for `qdrant`. Or QDRANT_API_KEY
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# write_manifest [PSQL_OPTION…]: write manifest.json, from a moment without a running transaction if there is one.
write_manifest() {
    local try manifest need_quiet=true
    for try in {1..20}; do
        [ "$try" -lt 20 ] || need_quiet=false
        manifest=$(psql --no-psqlrc --no-password --file "$here/snapshot.sql" --set kind="$kind" --set name="$name" \
            --set product_version="$(product_version)" --set started_at="$started" --set need_quiet=$need_quiet \
            --set is_dump=false --set start_lsn= --set end_lsn= "$@") || return 1
        if [ -n "$manifest" ]; then
            printf '%s\n' "$manifest" >"$partial/manifest.json"
            return
        fi
        sleep 0.1
    done
    return 1
}

encrypt_file() { encrypt <"$1" >"$partial/${1##*/}.age" && rm "$1"; }

take_base() {
    local files file range
    require_programs pg_basebackup pg_verifybackup
    files=$work/files
    run "The base backup" pg_basebackup --pgdata "$files" --format tar --compress client-gzip:1 \
        --wal-method stream --checkpoint fast --no-password --label "voiceassist $name"
    run "The verification of the base backup" pg_verifybackup --format tar --no-parse-wal --quiet "$files"
    for file in "$files"/[0-9]*.tar.gz; do
        [ ! -e "$file" ] || fail "The server has tablespaces, which these scripts can't restore. Move their tables to pg_default."
    done
    range=$(grep -o '"Start-LSN": "[^"]*", "End-LSN": "[^"]*"' "$files/backup_manifest" | tail -n 1)
    run "Counting the rows" write_manifest --set start_lsn="$(cut -d '"' -f 4 <<<"$range")" \
        --set end_lsn="$(cut -d '"' -f 8 <<<"$range")"
    for file in "$files"/*; do
        run "Encrypting ${file##*/}" encrypt_file "$file"
    done
}

take_dump() {
    require_programs pg_dump
    export ERRORS=$errors RECIPIENTS=$work/recipients DUMP=$partial/database.dump.age
    run "The dump" write_manifest --set is_dump=true --set need_quiet=false
    [ -e "$DUMP" ] || fail "The dump failed: $(reason)"
}

take_qdrant() {
    source "$here/qdrant.sh"
    take_snapshots
}

# Remove backups that are older than BACKUP_DAYS, except the newest one of each kind and the newest verified one, and
# the WAL that no remaining base backup needs.
remove_expired() {
    local limit verified kind folder oldest
    limit=$(date -u -d "$days days ago" +%Y%m%dT%H%M%SZ)
    verified=$(query "SELECT DISTINCT ON (kind) kind || '/' || name FROM backups WHERE verified_at IS NOT NULL
        ORDER BY kind, started_at DESC")
    for kind in base dump qdrant; do
        for folder in "$BACKUP_DIR/$kind"/2*Z; do
            if [ -d "$folder" ] && [[ ${folder##*/} < $limit && $folder != "$(newest $kind)" ]] &&
                ! grep -q -x -F "$kind/${folder##*/}" <<<"$verified"; then
                log "Removing the expired backup $kind/${folder##*/}."
                mv "$folder" "$BACKUP_DIR/$kind/.removed.partial" && rm -rf "$BACKUP_DIR/$kind/.removed.partial"
            fi
        done
    done
    for folder in "$BACKUP_DIR"/wal.*; do # of earlier servers
        [ ! -d "$folder" ] || grep -q -r -F "\"system_identifier\" : \"${folder##*/wal.}\"" --include manifest.json "$BACKUP_DIR/base" ||
            rm -rf "$folder"
    done
    oldest=$(find "$BACKUP_DIR/base" -path '*/2*Z/manifest.json' -exec cat {} + 2>/dev/null | sed -n 's/.*"start_wal" : "\([0-9A-F]\{24\}\)".*/\1/p' |
        cut -c 9- | sort | head -n 1)
    if [ -n "$oldest" ] && [ -d "$BACKUP_DIR/wal" ]; then
        pg_archivecleanup -x .gz.age "$BACKUP_DIR/wal" "00000001$oldest" # which ignores the timeline, the first 8 digits
        pg_archivecleanup -x .gz.age.sha256 "$BACKUP_DIR/wal" "00000001$oldest"
    fi
}

kind=${1:-}
case $kind in base | dump | qdrant) ;; *) fail "Usage: $program base|dump|qdrant" ;; esac
days=${BACKUP_DAYS:-30}
[[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail "BACKUP_DAYS must be a number of days."
begin backup
touch "$work/began"
while name=$(date -u +%Y%m%dT%H%M%SZ) && [ -e "$BACKUP_DIR/$kind/$name" ]; do
    sleep 0.1 # the last backup was made in the same second
done
started=$(date -u +%FT%TZ)
partial=$BACKUP_DIR/$kind/.$name.partial
mkdir -p "$BACKUP_DIR"/{base,dump,qdrant} || fail "$BACKUP_DIR can't be written."
rm -rf "$BACKUP_DIR/$kind"/.*.partial* # of runs that were killed
trap 'rm -rf "$work" "$errors" "$partial"' EXIT
run "Creating the folder of the backup" mkdir "$partial"
"take_$kind"
run "Computing the checksums" bash -c 'cd "$1" && sha256sum -- * >"$1.sums" && mv "$1.sums" SHA256SUMS' - "$partial"
run "Writing to the disk" sync "$partial"/*
run "Renaming the complete backup" mv -T "$partial" "$BACKUP_DIR/$kind/$name"
run "Writing to the disk" sync "$BACKUP_DIR/$kind"
# Unless wal.sh has found another gap meanwhile.
[ "$kind" != base ] || [ "$BACKUP_DIR/.base_needed" -nt "$work/began" ] || rm -f "$BACKUP_DIR/.base_needed"
bytes=$(du -sb "$BACKUP_DIR/$kind/$name" | cut -f 1)
record "$kind" "$name" "$started" "$(date -u +%FT%TZ)" "$bytes"
remove_expired
log "Stored $kind/$name, $bytes bytes."
