"""Migrated databases for attacks, and connections to them as a superuser and as the application's role."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.support.databases import manage as manage
from tests.support.databases import url_of
from tests.support.dependency_servers import Postgres, as_application

Connection = psycopg.Connection[Any]


@contextmanager
def cloned(postgres: Postgres, template: str) -> Iterator[str]:
    """Create a copy of a database. Yield its URL."""
    name = "trail_attacked"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield url_of(postgres, name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True)


def connect_as_application(url: str) -> Connection:
    return connect(as_application(url))
