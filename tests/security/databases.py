"""Migrated databases of their own for attacks, and the two roles that production uses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.support.dependency_servers import Postgres

ROOT = Path(__file__).resolve().parents[2]
APPLICATION_ROLE = "trail_app"
_GRANTS = f"""
    GRANT USAGE ON SCHEMA public TO {APPLICATION_ROLE};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APPLICATION_ROLE};
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {APPLICATION_ROLE};
    REVOKE UPDATE, DELETE ON audit_events, audit_checkpoints FROM {APPLICATION_ROLE};
    REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM {APPLICATION_ROLE};
"""

Connection = psycopg.Connection[Any]


def manage(*arguments: str, url: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def migrated_template(postgres: Postgres) -> Iterator[str]:
    """Create a migrated database with the application's role. Yield its name."""
    name = "trail_template"
    postgres.execute(f"CREATE DATABASE {name}")
    postgres.execute(f"CREATE ROLE {APPLICATION_ROLE} LOGIN PASSWORD 'password'")
    url = url_of(postgres, name)
    result = manage("migrate", "--verbosity", "0", url=url)
    assert result.returncode == 0, result.stderr
    with psycopg.connect(url) as connection:
        connection.execute(_GRANTS.encode())
    yield name
    postgres.execute(f"DROP DATABASE {name}")
    postgres.execute(f"DROP ROLE {APPLICATION_ROLE}")


@contextmanager
def cloned(postgres: Postgres, template: str) -> Iterator[str]:
    """Create a copy of a database. Yield its URL."""
    name = "trail_attacked"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield url_of(postgres, name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(postgres: Postgres, name: str) -> str:
    return postgres.url.replace("/tests", f"/{name}")


def connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True)


def connect_as_application(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True, user=APPLICATION_ROLE, password="password")
