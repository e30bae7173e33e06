"""The roles of the database, and what the roles of the application and of the backups may do with each table.

`ops/postgresql/roles.sql` creates the first two roles, `ops/postgresql/roles_backup.sql` the third. `manage.py migrate`
connects as the owner and grants these privileges at its end, so a new table needs no manual SQL. A role that does not
exist is granted nothing.
"""

from typing import Any

from core.audit_policy import APPEND_ONLY, REVOKED

OWNER_ROLE = "voiceassist_migrate"
APPLICATION_ROLE = "voiceassist_app"
BACKUP_ROLE = "voiceassist_backup"

_ORDINARY = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
_READ_ONLY = frozenset({"SELECT"})
_ADD_ONLY = frozenset({"SELECT", "INSERT"})
_ADD_AND_CHANGE = frozenset({"SELECT", "INSERT", "UPDATE"})
# Tables with other privileges than _ORDINARY.
PRIVILEGES = {
    **dict.fromkeys(APPEND_ONLY, _ADD_ONLY),
    **dict.fromkeys(REVOKED, _READ_ONLY),
    # Renaming a permission would give it to the holders of another one.
    "auth_permission": _READ_ONLY,
    "django_content_type": _READ_ONLY,
    # A list of what happened: an entry may become verified, but not disappear.
    "backups": _ADD_AND_CHANGE,
}
_SEQUENCE = frozenset({"USAGE"})
# The role of the backups reads everything as a member of pg_read_all_data, and writes only this list.
BACKUP_PRIVILEGES = {"backups": _ADD_AND_CHANGE}

# The tables and sequences on which the current role may grant something, with what the grantee has now.
_GRANTED = """
    SELECT relname, relkind = 'S', pg_class.oid::regclass::text,
        ARRAY(SELECT privilege_type FROM aclexplode(relacl) WHERE grantee = role.oid)
    FROM pg_class JOIN pg_roles AS role ON rolname = %s
    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p', 'S')
        AND pg_has_role(relowner, 'USAGE') AND relowner <> role.oid AND rolname <> current_user
"""


def privileges_on(table: str) -> frozenset[str]:
    """Return the privileges of the application's role."""
    return PRIVILEGES.get(table, _ORDINARY)


def grant_privileges(cursor: Any) -> None:
    """Give the roles of the application and of the backups exactly the privileges above. Change only what differs."""
    for role in (APPLICATION_ROLE, BACKUP_ROLE):
        cursor.execute(_GRANTED, [role])
        for name, is_sequence, quoted_name, granted in cursor.fetchall():
            privileges = _privileges(role, name, is_sequence=is_sequence)
            if privileges != set(granted):
                target = f"{'SEQUENCE' if is_sequence else 'TABLE'} {quoted_name}"
                cursor.execute(f"REVOKE ALL ON {target} FROM {role}")
                if privileges:
                    cursor.execute(f"GRANT {', '.join(sorted(privileges))} ON {target} TO {role}")


def _privileges(role: str, name: str, *, is_sequence: bool) -> frozenset[str]:
    if role == BACKUP_ROLE:
        return BACKUP_PRIVILEGES.get(name, frozenset())
    return _SEQUENCE if is_sequence else privileges_on(name)
