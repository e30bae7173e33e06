"""Databases that the attacks on the audit trail may damage."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.security.databases import Connection, cloned, connect, connect_as_application
from tests.support.databases import migrated_template
from tests.support.plugin import Servers


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """Return the name of a migrated database."""
    return migrated_template(servers.postgres)


@pytest.fixture
def database(servers: Servers, template: str) -> Iterator[str]:
    """Return the URL of a migrated database for one test."""
    with cloned(servers.postgres, template) as url:
        yield url


@pytest.fixture
def owner(database: str) -> Iterator[Connection]:
    """Return a connection as a superuser, who can do everything that the owner of the tables can."""
    with closing(connect(database)) as connection:
        yield connection


@pytest.fixture
def application(database: str) -> Iterator[Connection]:
    """Return a connection as the application's role."""
    with closing(connect_as_application(database)) as connection:
        yield connection
