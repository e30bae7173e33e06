#!/bin/sh
# Write Alertmanager's configuration from the environment, then run a command: start.sh FILE COMMAND…
#   ALERT_WEBHOOK_URL_FILE    names a file with a URL that gets all alerts as JSON
#                             (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config)
#   ALERT_EMAIL_TO            address that gets all alerts, or several, comma-separated
#   ALERT_EMAIL_FROM, ALERT_SMTP_SERVER (host:port, with STARTTLS, or TLS on port 465), ALERT_SMTP_USERNAME
#   ALERT_SMTP_PASSWORD_FILE  names a file with the password
# Without a receiver, alerts are only shown on Alertmanager's page.
set -eu
umask 077 # the file contains secrets
config=$1
shift
webhook=$(cat "$ALERT_WEBHOOK_URL_FILE")
password=$(cat "$ALERT_SMTP_PASSWORD_FILE")

quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }

{
    # All alerts that one failed dependency causes arrive as one notification.
    echo 'route: {receiver: on-call, group_by: [job]}'
    echo 'receivers:'
    echo '  - name: on-call'
    if [ -n "$webhook" ]; then
        echo '    webhook_configs:'
        echo "      - url: $(quoted "$webhook")"
    fi
    if [ -n "$ALERT_EMAIL_TO" ]; then
        if [ -z "$ALERT_EMAIL_FROM" ] || [ -z "$ALERT_SMTP_SERVER" ]; then
            echo "ALERT_EMAIL_TO needs a sender and a server. Set ALERT_EMAIL_FROM and ALERT_SMTP_SERVER in .env." >&2
            exit 1
        fi
        echo '    email_configs:'
        echo "      - to: $(quoted "$ALERT_EMAIL_TO")"
        echo "        from: $(quoted "$ALERT_EMAIL_FROM")"
        echo "        smarthost: $(quoted "$ALERT_SMTP_SERVER")"
        echo '        send_resolved: true'
        if [ -n "$ALERT_SMTP_USERNAME" ]; then
            echo "        auth_username: $(quoted "$ALERT_SMTP_USERNAME")"
            # Not auth_password_file, because Alertmanager sends the end of the file's last line too.
            echo "        auth_password: $(quoted "$password")"
        fi
    fi
} >"$config"
[ -n "$webhook$ALERT_EMAIL_TO" ] ||
    echo "No receiver is configured, so alerts are only shown here. See ALERT_EMAIL_TO in .env.example." >&2
exec "$@"
