"""Find changes of the database that would let the audit trail be bypassed.

Triggers write and protect the trail. Their owner and superusers can drop, disable or replace them, so the application
must be another role, and must notice when a trigger is not what the migrations created.
"""

from collections.abc import Iterator
from typing import Any

import psycopg

from core.audit_policy import APPEND_ONLY, AUDITED

# SHA-256 of the bodies of the functions. Servers of the previous release warn while a release that changes one is
# deployed.
FUNCTIONS = {
    "audit_row": "f328c723e8d26b334049e48fb675f02147e866ab2549f64af1e97ce9fe44a5ca",
    "audit_changes": "cc875be9027237413005da7bc2c1ee507d1e6c3f10c2b015beacda06e270a4c5",
    "audit_is_kept": "b8726e2c3df3145abd029e06981ead97f8155fdff73516e5a2df38f9a1a98a79",
    "audit_checkpoint_follows": "da773d5cafa47cf4f1213a55cf41d79be6cb59611c06f3e2372e9f64f5f4f80a",
    "audit_is_not_passed": "fc0bb9c4f3264e546eb5e554784a33483e7f9061a2d905bb9e128e08e8e16222",
}
# The conditions of triggers, as PostgreSQL prints them.
CONDITIONS = {
    "",
    """jsonb_populate_record(new.*, '{"updated_at": null, "message_count": null}'::jsonb) *<> """
    """jsonb_populate_record(old.*, '{"updated_at": null, "message_count": null}'::jsonb)""",
}
_OPERATIONS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}  # bits of pg_trigger.tgtype
_MAX_LISTED = 5

# MEMBER includes roles that the session could change to.
_STATE = """
WITH relation AS (
    SELECT oid, relname, relowner, relnamespace, relhasrules FROM pg_class WHERE oid IN (
        SELECT to_regclass(quote_ident(name)) FROM unnest(%(tables)s::text[]) AS name
    )
), trail AS (
    SELECT * FROM relation WHERE relname = ANY(%(append_only)s::text[])
)
SELECT session_user::text,
    (SELECT rolsuper FROM pg_roles WHERE rolname = session_user),
    ARRAY(SELECT relname::text FROM relation WHERE pg_has_role(session_user, relowner, 'MEMBER') ORDER BY 1),
    ARRAY(SELECT relname::text FROM trail WHERE has_table_privilege(session_user, oid, 'UPDATE, DELETE, TRUNCATE')
        OR has_any_column_privilege(session_user, oid, 'UPDATE') ORDER BY 1),
    has_parameter_privilege(session_user, 'session_replication_role', 'SET'),
    EXISTS (SELECT FROM trail),
    ARRAY(SELECT relname::text FROM trail WHERE relhasrules),
    (SELECT jsonb_object_agg(proname, encode(sha256(convert_to(prosrc, 'UTF8')), 'hex')) FROM pg_proc
        WHERE pronamespace = (SELECT relnamespace FROM trail LIMIT 1) AND proname = ANY(%(functions)s::text[])
        AND (proname NOT IN ('audit_row', 'audit_checkpoint_follows')
            OR proconfig = ARRAY[format('search_path=%%s, pg_temp', pronamespace::regnamespace)])),
    (SELECT jsonb_agg(jsonb_build_array(relname, proname, tgtype, tgenabled, tgattr::text = '',
            encode(tgargs, 'escape'),
            CASE WHEN tgqual IS NULL THEN '' ELSE
                substring(pg_get_triggerdef(pg_trigger.oid, true) FROM ' WHEN \\((.*)\\) EXECUTE FUNCTION ') END))
        FROM relation JOIN pg_trigger ON tgrelid = relation.oid JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE NOT tgisinternal AND pronamespace = relnamespace)
"""


def find_problems(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    """Return what would let the trail be bypassed, and what to do, by kind of problem.

    Return nothing before the audit trail exists.
    """
    tables = [*AUDITED, *APPEND_ONLY]
    parameters = {"tables": tables, "append_only": list(APPEND_ONLY), "functions": list(FUNCTIONS)}
    row = connection.execute(_STATE, parameters).fetchone()
    if row is None or not row[5]:
        return {}
    role, *powers = row[:5]
    problems = {}
    if reasons := list(_reasons(*powers)):
        problems["audit_role_too_powerful"] = (
            f"The database role {role} could change or bypass the audit trail, because {', '.join(reasons)}. Connect "
            "the application as a role that owns nothing, see docs/SECURITY_COMPLIANCE.md, Append-only protection."
        )
    if faults := _faults(*row[6:]):
        more = f" and {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
        problems["audit_trigger_missing"] = (
            "Changes may not be recorded, because triggers of the audit trail are missing, disabled or changed: "
            f"{', '.join(faults[:_MAX_LISTED])}{more}. Run migrate if it is pending. Otherwise find out who changed "
            "them and restore them, see docs/RUNBOOK.md, The audit trail was changed."
        )
    return problems


def _reasons(is_superuser: bool, owned: list[str], changeable: list[str], may_disable: bool) -> Iterator[str]:
    if is_superuser:  # which implies the others
        yield "it is a superuser"
        return
    if owned:
        yield f"it owns {', '.join(owned[:_MAX_LISTED])} or is a member of the role that does"
    if not set(changeable) <= set(owned):
        yield f"it may change {' and '.join(changeable)}"
    if may_disable:
        yield "it may set session_replication_role"


def _faults(with_rules: list[str], functions: dict[str, str] | None, triggers: Any) -> list[str]:
    functions = functions or {}
    changed = [name for name, digest in FUNCTIONS.items() if functions.get(name) != digest]
    faults = [f"function {name}" for name in changed]
    faults += [f"rules of {table}" for table in with_rules]
    found: set[tuple[str, str, str]] = set()
    for table, function, type_bits, enabled, has_all_columns, arguments, condition in triggers or ():
        operations = {name for name, bit in _OPERATIONS.items() if type_bits & bit}
        if table in APPEND_ONLY and function not in FUNCTIONS:
            faults.append(f"an unknown trigger on {table}")
        # The third argument of audit_row lists columns whose changes are not recorded.
        ignored = arguments.split("\\000")[2].split() if function == "audit_row" else []
        is_ignoring_more = table in AUDITED and not set(ignored) <= set(AUDITED[table].ignored.split())
        if enabled == "A" and has_all_columns and condition in CONDITIONS and not is_ignoring_more:
            found |= {(table, function, operation) for operation in operations}
    return faults + [f"{expected[2]} of {expected[0]}" for expected in expected_triggers() if expected not in found]


def expected_triggers() -> Iterator[tuple[str, str, str]]:
    """Yield each table, function and operation for which a trigger must exist."""
    for table, audited in AUDITED.items():
        yield from ((table, "audit_row", operation) for operation in audited.operations)
    for table in APPEND_ONLY:
        yield from ((table, "audit_is_kept", operation) for operation in ("UPDATE", "DELETE"))
    yield "audit_checkpoints", "audit_checkpoint_follows", "INSERT"
    for table in (*AUDITED, *APPEND_ONLY):
        yield table, "audit_is_not_passed", "TRUNCATE"
