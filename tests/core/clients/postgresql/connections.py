"""Connections and queries that the tests of this package share."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection

from core.clients.postgresql.connection import Connection
from core.models import Session

requires_real_transactions = pytest.mark.django_db(transaction=True)


@contextlib.contextmanager
def separate_connection(**overrides: Any) -> Iterator[psycopg.Connection]:
    """Yield a psycopg connection to the same database. Unlike the ORM's, it sees only committed rows."""
    with psycopg.connect(**{**connection_parameters(), **overrides}, autocommit=True) as other:
        yield other


def stored_ids(session: Session, other: psycopg.Connection) -> set[str | None]:
    rows = other.execute("SELECT client_message_id FROM messages WHERE session_id = %s", [session.pk])
    return {row[0] for row in rows}


def connection_parameters() -> dict[str, Any]:
    names = ("user", "password", "host", "port", "dbname")
    return {name: value for name, value in connection.get_connection_params().items() if name in names}


def connect(seconds: float = 5, **overrides: Any) -> Connection:
    return Connection.connect(**{**connection_parameters(), **overrides}, connect_timeout=seconds)


def select() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
