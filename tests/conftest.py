"""What stands between pytest-django's fixtures and ours."""

from collections.abc import Iterator

import pytest
import pytest_django
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.db import connection

from tests.support.browser import browser
from tests.support.plugin import drop_readiness_connections

__all__ = ["browser"]

collect_ignore = ["failover"]  # takes minutes: `make failover`


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id, but for its price: that of production is 100 MiB and some tenths of a second for each login."""
    for parameter, value in (("memory_cost", 64), ("time_cost", 1), ("parallelism", 1)):
        monkeypatch.setattr(Argon2PasswordHasher, parameter, value)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker) -> Iterator[None]:
    """pytest-django empties tables by TRUNCATE, which the application's refuse, and drops the database at the end:
    nothing may be connected to it then."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_is_not_passed'")
        for (table,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER audit_is_not_passed")
    yield
    drop_readiness_connections()
