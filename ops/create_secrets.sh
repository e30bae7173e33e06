#!/bin/sh
# Create the files in secrets/ that docker-compose.yml gives to the containers, one per secret, with random values. Files
# that exist stay as they are, so this can be run again. Values that .env has from an earlier release are taken over.
set -eu
unset CDPATH # with it, cd may find another folder
cd "$(dirname "$0")/.."
required='SECRET_KEY POSTGRES_PASSWORD POSTGRES_MIGRATE_PASSWORD POSTGRES_APP_PASSWORD POSTGRES_BACKUP_PASSWORD
    REDIS_PASSWORD QDRANT_API_KEY METRICS_TOKEN GRAFANA_PASSWORD'
optional='SECRET_KEY_FALLBACKS ALERT_WEBHOOK_URL ALERT_SMTP_PASSWORD' # empty means not set

command -v openssl >/dev/null || { echo "create_secrets.sh: openssl is not installed. Install it, then try again." >&2; exit 1; }

# Print the value that .env has for a name, without quotation marks around it.
value_in_env() {
    [ ! -f .env ] || sed -n "s/^$1=//p" .env | tail -n 1 | tr -d '\r' | sed "s/^'\(.*\)'\$/\1/; s/^\"\(.*\)\"\$/\1/"
}

# The containers run as different users, and each mounts single files, which it has to be able to read. On the machine
# the folder's mode keeps all other users out.
mkdir -p secrets
chmod 700 secrets
umask 022
moved=''
for name in $required $optional; do
    value=$(value_in_env "$name")
    [ -z "$value" ] || moved="$moved $name"
    [ ! -e "secrets/$name" ] || continue
    case " $(echo $required) " in
        *" $name "*) [ -n "$value" ] || value=$(openssl rand -hex 32) ;;
    esac
    printf %s "$value" >"secrets/$name.new"
    mv "secrets/$name.new" "secrets/$name" # a run that is interrupted leaves no empty file
    echo "created secrets/$name"
done
[ -z "$moved" ] || echo "Docker Compose now reads these from secrets/. Remove them from .env:$moved"
