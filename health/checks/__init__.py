"""All readiness checks, in one list.

Each asks what the application would: same URL, same credentials, same TLS, from Django's settings, on a connection of
its own. A check is given the seconds that it has, returns a Finding or raises;
`health.checks.failure_reasons` knows what an exception means.
"""

from collections.abc import Collection

from django.conf import settings

from health.check_runner import Check
from health.checks.migrations import migrations
from health.checks.postgres import postgres
from health.checks.postgres import where as where_postgres
from health.checks.qdrant import qdrant
from health.checks.qdrant import where as where_qdrant
from health.checks.redis import redis
from health.checks.redis import where as where_redis

CHECKS = {"postgres": postgres, "redis": redis, "qdrant": qdrant, "migrations": migrations}
# Without credentials, and whether it is there or not.
WHERE = {"postgres": where_postgres, "redis": where_redis, "qdrant": where_qdrant, "migrations": where_postgres}


def checks(names: Collection[str] = tuple(CHECKS)) -> list[Check]:
    """Returns the checks of `names`; those that HEALTH_OPTIONAL names are not critical."""
    return [
        Check(name, run, critical=name not in settings.HEALTH_OPTIONAL) for name, run in CHECKS.items() if name in names
    ]
