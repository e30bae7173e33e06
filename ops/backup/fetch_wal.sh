#!/usr/bin/env bash
# PostgreSQL's restore_command: fetch_wal.sh FOLDER IDENTITY NAME TARGET decrypts one file of the WAL from the folder.
# Exit code 1 means that there is no such file, which ends the recovery. One above 125 aborts it, because WAL that can't
# be decrypted must not be mistaken for the end: https://www.postgresql.org/docs/current/runtime-config-wal.html
set -euo pipefail
umask 077
[ -r "$1" ] && [ -x "$1" ] || { echo "fetch_wal.sh: $1 can't be read" >&2; exit 126; }
for file in "$1/$3.gz.age" "$1/$3.partial.gz.age"; do
    if [ -e "$file" ]; then
        age --decrypt --identity "$2" "$file" | gunzip >"$4" && exit 0
        echo "fetch_wal.sh: ${file##*/} can't be decrypted" >&2
        exit 126
    fi
done
exit 1
