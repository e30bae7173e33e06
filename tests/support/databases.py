"""Migrated databases for tests, as copies of a template. To copy one takes 10 ms, to migrate one takes seconds.

Tests of `migrate` itself create an empty database instead.
"""

import os
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import psycopg
from psycopg import sql

from core.audit_policy import APPEND_ONLY
from tests.support.dependency_servers import Postgres, as_application, as_owner
from tests.support.forked_python import run

if TYPE_CHECKING:
    from django.db.models import Model


def manage(*arguments: str, url: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command of manage.py with the database at `url`."""
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    return run(["manage.py", *arguments], environment, stdin=stdin, timeout=120)


def url_of(postgres: Postgres, name: str) -> str:
    """Return the superuser's URL of a database."""
    return postgres.url.replace("/tests", f"/{name}")


@cache
def migrated_template(postgres: Postgres) -> str:
    """Return the name of a database that the owner's role has migrated, as in production. Connect to copies only."""
    name = "migrated_template"
    postgres.execute(f"CREATE DATABASE {name}")
    done = manage("migrate", "--verbosity", "0", url=as_owner(url_of(postgres, name)))
    assert done.returncode == 0, done.stderr
    return name


def migrated_database(postgres: Postgres, name: str) -> str:
    """Create a migrated database. Return the superuser's URL."""
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template(postgres)}")
    return url_of(postgres, name)


def database_with_staff(postgres: Postgres, name: str, email: str, password: str) -> str:
    """Return the application's URL of a new, migrated database with a superuser of the admin."""
    from core.models import User

    url = migrated_database(postgres, name)
    insert(as_owner(url), User(email=email, password=hash_of(password), is_staff=True, is_superuser=True))
    return as_application(url)


def insert(url: str, *rows: "Model") -> None:
    """Store objects in the database at `url`, which is not the one that Django uses in this process."""
    from django.db import connection

    from core.phi import stored_fields

    with psycopg.connect(url) as database:
        for row in rows:
            values = {
                str(field.column): field.get_db_prep_save(field.pre_save(row, True), connection)
                for field in stored_fields(type(row))
            }
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(row._meta.db_table),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            )
            database.execute(statement, list(values.values()))


class Rows:
    """The rows of a database, whose permissions and content types stay. A context manager that holds a connection."""

    def __init__(self, url: str) -> None:
        self._superuser = psycopg.connect(url, autocommit=True, options="-c lock_timeout=10s")
        permanent = {"django_content_type", "auth_permission", "django_migrations"}
        tables = self._execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        each = (f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for (table,) in tables if table not in permanent)
        self._find = " UNION ALL ".join(each)

    def delete(self) -> None:
        """Delete only from tables that have rows, which takes less than a tenth of the time of TRUNCATE on all."""
        found = {table for (table,) in self._execute(self._find)}
        if not found:
            return
        with self._superuser.transaction():
            for table in found.difference(APPEND_ONLY):
                self._execute(f"DELETE FROM {table}")
            self._execute("SET CONSTRAINTS ALL IMMEDIATE")  # otherwise TRUNCATE fails
            for table in APPEND_ONLY:  # last, because the deletions have added events
                trigger = f"ALTER TABLE {table} {{}} TRIGGER audit_is_not_passed"
                truncate = f"TRUNCATE {table}"
                self._execute("; ".join([trigger.format("DISABLE"), truncate, trigger.format("ENABLE ALWAYS")]))

    def _execute(self, statements: str) -> "psycopg.Cursor[Any]":
        return self._superuser.execute(statements.encode())

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *args: object) -> None:
        self._superuser.close()


@cache
def hash_of(password: str) -> str:
    """Return a hash with the cost of production, because servers replace any other hash at the first login."""
    from django.contrib.auth.hashers import make_password

    from core.auth.password_hashing import PasswordHasher

    production: dict[str, Any] = {"memory_cost": 19456, "time_cost": 2}
    with patch.multiple(PasswordHasher, **production):  # the fixture `cheap_hashes` changes them
        return make_password(password)
