# shellcheck shell=bash
# What restore.sh and unpack.sh share: open a backup, which needs the private key. Neither connects as the backup role.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Print a value of the manifest. PostgreSQL writes one line per file, with names that occur once.
value() { sed -n "s/.*\"$1\" : \"\{0,1\}\([^\",}]*\)\"\{0,1\}[,}].*/\1/p" "$backup/manifest.json"; }

decrypt() { age --decrypt --identity "$identity" "$1"; }

# open_backup BACKUP IDENTITY: check that the folder is a complete backup, and that the identity decrypts it.
open_backup() {
    backup=$(cd "$1" 2>/dev/null && pwd) || fail "There is no folder $1."
    identity=$(realpath "$2" 2>/dev/null) && [ -r "$identity" ] || fail "The identity file $2 can't be read."
    require_programs age sha256sum
    errors=$(mktemp)
    trap 'rm -f "$errors"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    [ -s "$backup/SHA256SUMS" ] && [ -s "$backup/manifest.json" ] ||
        fail "$backup is not a complete backup. Choose one whose folder has SHA256SUMS and manifest.json."
    run "The check of the checksums" check_sums
    kind=$(value kind)
    # The header of one file suffices. head closes the pipe, which age reports as an error.
    local file
    for file in "$backup"/*.age; do
        [ -n "$(decrypt "$file" 2>"$errors" | head -c 1)" ] || fail "The identity can't decrypt the backup: $(reason)"
        break
    done
}

# verify_sums FILE: check the files that FILE lists, and print an error for each one that is damaged or missing.
verify_sums() { sha256sum --check --quiet --strict "$1" | sed 's/^/error: /' >&2; }

check_sums() {
    local file
    (cd "$backup" && verify_sums SHA256SUMS) || return 1
    for file in "$backup"/*; do
        file=${file##*/}
        if [ "$file" != SHA256SUMS ] && ! grep -q -F "  $file" "$backup/SHA256SUMS"; then
            echo "error: $file has no checksum" >&2
            return 1
        fi
    done
}
