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


@cache
def hash_of(password: str) -> str:
    """Return a hash with the cost of production, because servers replace any other hash at the first login."""
    from django.contrib.auth.hashers import make_password

    from core.auth.password_hashing import PasswordHasher

    production: dict[str, Any] = {"memory_cost": 19456, "time_cost": 2}
    with patch.multiple(PasswordHasher, **production):  # the fixture `cheap_hashes` changes them
        return make_password(password)
