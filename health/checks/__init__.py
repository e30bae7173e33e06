"""All readiness checks, in one list.

A check receives its timeout in seconds and returns a CheckOutput or raises; `health.checks.failure_reasons` maps the
exception to a reason. It has its own connection, with the application's URL, credentials and TLS settings.
"""

from collections.abc import Collection
from functools import partial

from django.conf import settings
from packaging.version import Version

from health.check_runner import Check
from health.checks.migrations import migrations, migrations_for, migrations_on_disk
from health.checks.postgres import postgres, postgres_endpoint
from health.checks.qdrant import qdrant, qdrant_endpoint
from health.checks.queue import queue
from health.checks.redis import cache_keys, redis, redis_endpoint

CHECKS = {"postgres": postgres, "redis": redis, "qdrant": qdrant, "migrations": migrations, "queue": queue}
# The configured endpoints, without credentials.
ENDPOINTS = {
    "postgres": postgres_endpoint,
    "redis": redis_endpoint,
    "qdrant": qdrant_endpoint,
    "migrations": postgres_endpoint,
    "queue": redis_endpoint,
}


def checks(names: Collection[str] = tuple(CHECKS), *, for_version: Version | None = None) -> list[Check]:
    """Return the checks in `names`. Those listed in HEALTH_OPTIONAL are not critical, and neither is `queue`.

    With `for_version`, the check `migrations` is whether that version may run on the database.
    """
    runs = dict(CHECKS)
    if for_version is not None:
        runs["migrations"] = partial(migrations_for, for_version)
    optional = {*settings.ALWAYS_OPTIONAL, *settings.HEALTH_OPTIONAL}
    return [Check(name, run, critical=name not in optional) for name, run in runs.items() if name in names]


def preload() -> None:
    """Load what the first checks of each worker would load, in gunicorn's master, so that all workers share it."""
    migrations_on_disk()
    cache_keys()
