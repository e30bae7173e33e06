"""Migrated databases for attacks, and connections to them as a superuser and as the application's role."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.support.dependency_servers import Postgres, as_application, as_owner

ROOT = Path(__file__).resolve().parents[2]
Connection = psycopg.Connection[Any]


def manage(*arguments: str, url: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def migrated_template(postgres: Postgres) -> Iterator[str]:
    """Create a database and migrate it as in production. Yield its name."""
    name = "trail_template"
    postgres.execute(f"CREATE DATABASE {name}")
    result = manage("migrate", "--verbosity", "0", url=as_owner(url_of(postgres, name)))
    assert result.returncode == 0, result.stderr
    yield name
    postgres.execute(f"DROP DATABASE {name}")


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
    return connect(as_application(url))
