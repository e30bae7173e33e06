"""The two roles of the database, and what the application's role may do with each table.

`ops/postgresql/roles.sql` creates the roles. `manage.py migrate` connects as the owner and grants these privileges at
its end, so a new table needs no manual SQL. If the application's role does not exist, nothing is granted.
"""

from typing import Any

from core.audit_policy import APPEND_ONLY, REVOKED

OWNER_ROLE = "voiceassist_migrate"
APPLICATION_ROLE = "voiceassist_app"

_ORDINARY = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
_READ_ONLY = frozenset({"SELECT"})
_ADD_ONLY = frozenset({"SELECT", "INSERT"})
# Tables with other privileges than _ORDINARY.
PRIVILEGES = {
    **dict.fromkeys(APPEND_ONLY, _ADD_ONLY),
    **dict.fromkeys(REVOKED, _READ_ONLY),
    # Renaming a permission would give it to the holders of another one.
    "auth_permission": _READ_ONLY,
    "django_content_type": _READ_ONLY,
}
_SEQUENCE = frozenset({"USAGE"})

# The tables and sequences on which the current role may grant something, with what the application's role has now.
_GRANTED = """
    SELECT relname, relkind = 'S', pg_class.oid::regclass::text,
        ARRAY(SELECT privilege_type FROM aclexplode(relacl) WHERE grantee = application.oid)
    FROM pg_class JOIN pg_roles AS application ON rolname = %s
    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p', 'S')
        AND pg_has_role(relowner, 'USAGE') AND relowner <> application.oid AND rolname <> current_user
"""


def privileges_on(table: str) -> frozenset[str]:
    return PRIVILEGES.get(table, _ORDINARY)


def grant_privileges(cursor: Any) -> None:
    """Give the application's role exactly the privileges above. Change only what differs."""
    cursor.execute(_GRANTED, [APPLICATION_ROLE])
    for name, is_sequence, quoted_name, granted in cursor.fetchall():
        privileges = _SEQUENCE if is_sequence else privileges_on(name)
        if privileges != set(granted):
            target = f"{'SEQUENCE' if is_sequence else 'TABLE'} {quoted_name}"
            cursor.execute(f"REVOKE ALL ON {target} FROM {APPLICATION_ROLE}")
            cursor.execute(f"GRANT {', '.join(sorted(privileges))} ON {target} TO {APPLICATION_ROLE}")
