"""All readiness checks, in one list.

A check receives its timeout in seconds and returns a CheckOutput or raises; `health.checks.failure_reasons` maps the
exception to a reason. It has its own connection, with the application's URL, credentials and TLS settings.
"""

from collections.abc import Collection

from django.conf import settings

from health.check_runner import Check
from health.checks.migrations import migrations
from health.checks.postgres import describe_endpoint as describe_postgres
from health.checks.postgres import postgres
from health.checks.qdrant import describe_endpoint as describe_qdrant
from health.checks.qdrant import qdrant
from health.checks.redis import describe_endpoint as describe_redis
from health.checks.redis import redis

CHECKS = {"postgres": postgres, "redis": redis, "qdrant": qdrant, "migrations": migrations}
# The configured endpoints, without credentials.
ENDPOINTS = {
    "postgres": describe_postgres,
    "redis": describe_redis,
    "qdrant": describe_qdrant,
    "migrations": describe_postgres,
}


def checks(names: Collection[str] = tuple(CHECKS)) -> list[Check]:
    """Return these checks. Those listed in HEALTH_OPTIONAL are not critical."""
    return [
        Check(name, run, critical=name not in settings.HEALTH_OPTIONAL) for name, run in CHECKS.items() if name in names
    ]
