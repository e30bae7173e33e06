# shellcheck shell=bash
# Sourced by backup.sh: one snapshot of each collection of Qdrant, by its HTTP API.
# https://api.qdrant.tech/api-reference/snapshots/create-snapshot

# call METHOD PATH [CURL_OPTION…]: the key is read from a file, because every user can read the arguments of a process.
call() {
    curl --silent --show-error --fail --max-time 3600 --header @"$work/qdrant_headers" --request "$1" "${@:3}" \
        "${QDRANT_URL%/}$2"
}

# Percent-encode a name.
encoded() { od -An -v -tx1 <<<"$1" | tr -d ' \n' | sed 's/0a$//; s/../%&/g'; }

# Print the values of a key in a response. Names of collections and snapshots contain no quotes: Qdrant refuses them.
values() { grep -o "\"$1\": *\"[^\"]*\"" | cut -d '"' -f 4 || true; }

snapshot() {
    local path snapshot checksum found status=0
    path=/collections/$(encoded "$1")/snapshots
    call POST "$path?wait=true" >"$work/response" || return 1
    snapshot=$(values name <"$work/response")
    checksum=$(values checksum <"$work/response")
    call GET "$path/$(encoded "$snapshot")" --output "$work/snapshot" || status=1
    call DELETE "$path/$(encoded "$snapshot")" >/dev/null || status=1 # otherwise it would fill Qdrant's disk
    [ $status = 0 ] || return 1
    found=$(sha256sum <"$work/snapshot" | cut -d ' ' -f 1)
    if [ -n "$checksum" ] && [ "$checksum" != "$found" ]; then
        echo "error: the checksum of the downloaded snapshot is wrong" >&2
        return 1
    fi
    encrypt <"$work/snapshot" >"$partial/$(encoded "$1").snapshot.age" && rm "$work/snapshot"
}

take_snapshots() {
    local backup_name=$name name
    require QDRANT_URL
    require_programs curl
    if [ -n "${QDRANT_API_KEY_FILE:-}" ]; then
        [ -r "$QDRANT_API_KEY_FILE" ] || fail "QDRANT_API_KEY_FILE can't be read."
        QDRANT_API_KEY=$(<"$QDRANT_API_KEY_FILE")
    fi
    printf 'api-key: %s\n' "${QDRANT_API_KEY:-}" >"$work/qdrant_headers"
    run "Listing the collections of Qdrant" call GET /collections --output "$work/collections"
    values name <"$work/collections" >"$work/names"
    while read -r name; do
        run "The snapshot of a collection" snapshot "$name"
    done <"$work/names"
    printf '{"kind" : "qdrant", "name" : "%s", "product_version" : "%s", "started_at" : "%s", "collections" : %s}\n' \
        "$backup_name" "$(product_version)" "$started" "$(wc -l <"$work/names")" >"$partial/manifest.json"
}
