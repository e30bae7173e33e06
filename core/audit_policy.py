"""Which tables the database audits, and why the others are not audited.

The migrations create the triggers. This module repeats what they must be, so that `core.audit_integrity` can find those
that somebody removed or changed. Tests compare it with a migrated database, and fail for a table that is not listed.
"""

from typing import NamedTuple

_EVERY = ("INSERT", "UPDATE", "DELETE")


class Audited(NamedTuple):
    """The arguments of `audit_row`, and the operations that it records.

    Changes of columns that are not listed are recorded with masked values.
    """

    row_id: str  # column whose value becomes the event's object_id
    shown: str  # columns whose values are recorded
    ignored: str = ""  # columns whose changes are not recorded
    operations: tuple[str, ...] = _EVERY


AUDITED = {
    "users": Audited(
        "id",
        "id created_at email full_name specialty is_active is_staff is_superuser is_emergency must_change_password "
        "logins_ended_at",
        "updated_at last_login",
    ),
    "sessions": Audited("id", "id created_at user_id mode is_archived ended_at", "updated_at message_count"),
    # INSERT is not recorded, because the row itself is the record, and it cannot change or disappear unrecorded.
    "messages": Audited(
        "id",
        "id created_at session_id role model tokens contains_phi client_message_id",
        "updated_at",
        ("UPDATE", "DELETE"),
    ),
    "users_groups": Audited("user_id", "user_id group_id", "id"),
    "users_user_permissions": Audited("user_id", "user_id permission_id", "id"),
    "auth_group": Audited("id", "id name"),
    "auth_group_permissions": Audited("group_id", "group_id permission_id", "id"),
    "auth_permission": Audited("id", "id name content_type_id codename"),
    "django_content_type": Audited("id", "id app_label model"),
    "otp_totp_totpdevice": Audited(
        "user_id",
        "id created_at user_id name confirmed step t0 digits tolerance",
        "drift last_t last_used_at throttling_failure_count throttling_failure_timestamp",
    ),
    "recovery_codes": Audited("user_id", "id created_at user_id", "updated_at"),
    # The events name who asked for which job. Its progress is not recorded, because what it changes has other events.
    "jobs": Audited(
        "id",
        "id created_at task arguments is_scheduled actor_id trace_id reason",
        "updated_at status run_after sent_at lease leased_until attempts done total result error started_at "
        "finished_at",
    ),
    "exports": Audited("id", "id created_at user_id recipient", "updated_at size finished_at"),
}
APPEND_ONLY = {
    "audit_events": "It is the audit trail.",
    "audit_checkpoints": "They make the removal of audit events visible.",
}
# The application's role may not write these tables.
REVOKED = {"django_migrations": "Only migrate writes it."}
NOT_AUDITED = {
    "export_chunks": "They belong to an export, whose creation, downloads and removal are recorded.",
    "backups": "They decide only what the metrics and the admin show, and the backup service writes one every minute.",
    "django_session": "Logins, logouts and automatic logoffs are recorded as events of their own.",
    "django_admin_log": "Django's own log of the admin is disabled. The table is empty.",
    "axes_accessattempt": "Failed logins and lockouts are recorded as events of their own. Without the count of an "
    "account, a few more passwords can be tried, which are recorded too.",
    "axes_accessattemptexpiration": "It is not used.",
    "axes_accessfailurelog": "It is not used.",
    "axes_accesslog": "It is not used.",
}
