"""Fixtures that every test uses."""

from collections.abc import Iterator

import pytest
import pytest_django
from django.db import connection

from core.auth.password_hashing import PasswordHasher
from tests.support.browser import browser
from tests.support.plugin import drop_readiness_connections

__all__ = ["browser"]

collect_ignore = ["failover"]  # takes minutes: `make failover`


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Argon2id with minimal cost. With the production cost, each login takes 19 MiB and about 40 ms."""
    for parameter, value in (("memory_cost", 64), ("time_cost", 1)):
        monkeypatch.setattr(PasswordHasher, parameter, value)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker) -> Iterator[None]:
    """Allow TRUNCATE, which pytest-django uses, and close all connections before it drops the database."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_is_not_passed'")
        for (table,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER audit_is_not_passed")
    yield
    drop_readiness_connections()
