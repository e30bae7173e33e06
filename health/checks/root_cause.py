"""Attribute the failure of a check to the dependency that it needs, so that one cause is reported once."""

from dataclasses import replace

from health.check_runner import Result
from health.checks.failure_reasons import MIGRATIONS_PENDING, SCHEMA_TOO_NEW

_NEEDS = {"migrations": ("postgres",), "queue": ("postgres", "redis")}
# Reasons that a check can only find if PostgreSQL responds, so they are faults of their own.
_OWN_REASONS = (MIGRATIONS_PENDING, SCHEMA_TOO_NEW)


def attribute(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """Set the cause of each result that failed because another dependency is down.

    The result stays unhealthy, with the reason of its cause, because the server can't work without it either way.
    """
    unhealthy = {result.name: result for result in results if not result.healthy}
    return tuple(_attribute(result, unhealthy) for result in results)


def _attribute(result: Result, unhealthy: dict[str, Result]) -> Result:
    if result.healthy or result.reason in _OWN_REASONS:
        return result
    cause = next((unhealthy[name] for name in _NEEDS.get(result.name, ()) if name in unhealthy), None)
    if cause is None:
        return result
    return replace(result, reason=cause.reason, detail=f"not checked, {cause.name} is down", cause=cause.name)
