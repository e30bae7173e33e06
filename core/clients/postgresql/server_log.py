"""Find settings with which PostgreSQL writes the values of our statements, which may be PHI, into its log.

PostgreSQL's `terse` verbosity removes DETAIL and CONTEXT, which contain values, from its text log, but not from csvlog
and jsonlog. tests/security/test_database_log.py measures what each setting writes to which log.
"""

from typing import Any

import psycopg

_NAMES = (
    "log_destination",
    "log_error_verbosity",
    "log_min_messages",
    "log_statement",
    "log_min_duration_statement",
    "log_min_duration_sample",
    "log_transaction_sample_rate",
    "log_parameter_max_length",
    "log_parameter_max_length_on_error",
    "debug_print_plan",
    # NULL without these extensions
    "auto_explain.log_min_duration",
    "pgaudit.log",
    "pgaudit.log_parameter",
)
_QUERY = b"""
    SELECT array_agg(coalesce(current_setting(name, true), '') ORDER BY position),
        format('ALTER ROLE %%I SET', session_user)
    FROM unnest(%s::text[]) WITH ORDINALITY AS setting (name, position)
"""
# The values with which no statement that has parameters is logged.
_NO_STATEMENTS = {
    "log_statement": ("none", "ddl"),
    "log_min_duration_statement": ("-1",),
    "log_min_duration_sample": ("-1",),
    "log_transaction_sample_rate": ("0",),
}


def find_problems(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    """Return the warning `logs_values` if PostgreSQL may log values of statements of this role."""
    row = connection.execute(_QUERY, [list(_NAMES)]).fetchone()
    assert row  # an aggregate always returns one
    settings = dict(zip(_NAMES, row[0], strict=True))
    changes = _needed_changes(settings)
    if not changes:
        return {}
    causes = ", ".join(f"{name} = {settings[name]}" for name in changes)
    commands = "; ".join(f"{row[1]} {name} = {value}" for name, value in changes.items())
    return {
        "logs_values": f"PostgreSQL may write PHI into its log, because of {causes}. Run {commands} as superuser, or "
        "change the server's settings, which hosted PostgreSQL calls parameters."
    }


def _needed_changes(settings: dict[str, str]) -> dict[str, str]:
    """Return the settings that let values into the log, with the value that each should have."""
    changes = {}
    if settings["log_min_messages"] not in ("log", "fatal", "panic"):  # ordered by severity; ERROR is below LOG
        changes["log_min_messages"] = "log"
    destinations = {destination.strip() for destination in settings["log_destination"].split(",")}
    if settings["log_error_verbosity"] != "terse" or destinations & {"csvlog", "jsonlog"}:
        logs_statements = any(settings[name] not in harmless for name, harmless in _NO_STATEMENTS.items())
        if logs_statements and settings["log_parameter_max_length"] != "0":
            changes["log_parameter_max_length"] = "0"
        if settings["log_parameter_max_length_on_error"] != "0":
            changes["log_parameter_max_length_on_error"] = "0"
        if settings["debug_print_plan"] == "on":
            changes["debug_print_plan"] = "off"
    # The filters of a logged plan contain the values, whatever auto_explain.log_parameter_max_length is.
    if settings["auto_explain.log_min_duration"] not in ("", "-1"):
        changes["auto_explain.log_min_duration"] = "-1"
    if settings["pgaudit.log"] not in ("", "none") and settings["pgaudit.log_parameter"] == "on":
        changes["pgaudit.log_parameter"] = "off"
    return changes
