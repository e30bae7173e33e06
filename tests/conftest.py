"""Fixtures that every test uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import pytest_django
from django.db import connection
from django.test import TransactionTestCase

from core.auth.password_hashing import PasswordHasher
from core.database_roles import APPLICATION_ROLE
from tests.support.browser import browser
from tests.support.dependency_servers import SUPERUSER
from tests.support.plugin import Servers, drop_readiness_connections

__all__ = ["browser"]

collect_ignore = ["failover", "fresh_clone"]  # take minutes: `make failover`, `make fresh-clone`


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Argon2id with minimal cost. With the production cost, each login takes 19 MiB and about 40 ms."""
    for parameter, value in (("memory_cost", 64), ("time_cost", 1)):
        monkeypatch.setattr(PasswordHasher, parameter, value)


@pytest.fixture(autouse=True, scope="module")
def pretended_worker(servers: Servers) -> None:
    """Let the check `queue` find a worker, also if tests of another module have flushed Redis."""
    servers.redis.add_worker()


@contextmanager
def _connected_as(role: str) -> Iterator[None]:
    """Connect Django as `role`, which has the same password. Call this outside of a transaction."""
    settings, before = connection.settings_dict, connection.settings_dict["USER"]
    connection.close()
    settings["USER"] = role
    try:
        yield
    finally:
        connection.close()
        settings["USER"] = before


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> Iterator[None]:
    """Create and drop the test database as superuser. The tests in between connect as the application's role."""
    with _connected_as(SUPERUSER):
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker) -> Iterator[None]:
    """Allow TRUNCATE, which pytest-django uses, and close all connections before it drops the database.

    Private: Django empties the tables after a test with real transactions, which the application's role may not do.
    """
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'audit_is_not_passed'")
        for (table,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER audit_is_not_passed")

    empty_tables = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]

    def empty_tables_as_superuser(test: TransactionTestCase) -> None:
        with _connected_as(SUPERUSER):
            empty_tables(test)

    with _connected_as(APPLICATION_ROLE), pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty_tables_as_superuser)
        yield
    drop_readiness_connections()


@pytest.fixture
def _database_role(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[None]:
    """Connect a test with the marker `database_superuser` as superuser, because it changes the schema."""
    if request.node.get_closest_marker("database_superuser"):
        with _connected_as(SUPERUSER):
            yield
    else:
        yield


@pytest.fixture
def _django_db_helper(_database_role: None, _django_db_helper: None) -> None:
    """Private: pytest-django opens the transaction of a test here, so the role has to be set before."""
