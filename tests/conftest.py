"""Fixtures that every test uses."""

from collections.abc import Iterator

import pytest
from django.db import connection
from django.test import TransactionTestCase

from core.auth.password_hashing import PasswordHasher
from tests.support.browser import browser, chromium
from tests.support.databases import Rows, migrated_database
from tests.support.dependency_servers import SUPERUSER
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.slow_files import pytest_collection_modifyitems

__all__ = ["browser", "chromium", "pytest_collection_modifyitems"]

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


@pytest.fixture(scope="session")
def django_db_setup(servers: Servers, django_test_environment: None) -> Iterator[None]:
    """Connect Django to a copy of the migrated template, as the application's role.

    Private: after a test with real transactions, Django would truncate all tables, which that role may not do and which
    takes ten times as long as deleting the rows, and then create the permissions and content types again.
    """
    name = "test_tests"
    connection.close()
    with Rows(migrated_database(servers.postgres, name)) as rows, pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", name)
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda test: rows.delete())
        yield
    drop_readiness_connections()


@pytest.fixture
def _database_role(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[None]:
    """Connect a test with the marker `database_superuser` as superuser, because it changes the schema."""
    if not request.node.get_closest_marker("database_superuser"):
        yield
        return
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "USER", SUPERUSER)  # has the same password
        yield
    connection.close()


@pytest.fixture
def _django_db_helper(_database_role: None, _django_db_helper: None) -> None:
    """Private: pytest-django opens the transaction of a test here, so the role has to be set before."""
