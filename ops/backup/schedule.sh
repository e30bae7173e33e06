#!/usr/bin/env bash
# Receive the WAL, and take a base backup and Qdrant snapshots daily and a dump weekly, at 02:00 UTC. The container of
# docker-compose.yml runs this. It takes what is missing or overdue at its start.
# Variables: those of backup.sh and wal.sh. Without QDRANT_URL no snapshots are taken.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

retry_after=900 # seconds, after a failure

# is_due KIND DAYS: whether the newest backup is older than the last 02:00, or than the one DAYS - 1 days before that.
is_due() {
    local last newest
    [ "$1" != base ] || [ ! -e "$BACKUP_DIR/.base_needed" ] || return 0
    newest=$(newest "$1")
    last=$((($(date -u +%s) - 7200) / 86400 * 86400 + 7200 - ($2 - 1) * 86400))
    [[ $(date -u -d "@$last" +%Y%m%dT%H%M%SZ) > ${newest##*/} ]]
}

receive() {
    setpriv --pdeathsig TERM "$here/wal.sh" & # it ends if this script is killed, so that the next start is not refused
    receiver=$!
}

# take KIND: take a backup, in a process group of its own, with which all its programs are ended.
take() {
    local status=0
    setsid "$here/backup.sh" "$1" &
    running=$!
    while kill -0 $running 2>/dev/null; do
        wait -n $running $receiver || true
        if ! kill -0 $receiver 2>/dev/null && kill -0 $running 2>/dev/null; then
            log "wal.sh ended. Its last line says why. Starting it again."
            sleep 5
            receive
        fi
    done
    wait "$running" || status=$?
    running=''
    return $status
}

stop() {
    [ -z "$running" ] || kill -- -"$running" 2>/dev/null || true
    kill $(jobs -p) 2>/dev/null || true
    wait
    exit 143
}

require BACKUP_DIR
require_programs setpriv setsid
running=''
receive
trap stop TERM INT
declare -A retry_at=([base]=0 [dump]=0 [qdrant]=0)
while kill -0 $receiver 2>/dev/null; do
    for backup in base:1 dump:7 ${QDRANT_URL:+qdrant:1}; do
        kind=${backup%:*}
        if ((SECONDS >= retry_at[$kind])) && is_due "$kind" "${backup#*:}"; then
            take "$kind" || retry_at[$kind]=$((SECONDS + retry_after))
        fi
    done
    sleep 15 &
    wait -n $receiver $! || true
done
fail "wal.sh ended, so this ends too. Its last line says why."
