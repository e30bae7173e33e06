"""Options in DATABASE_URL that need more than a value reach the connections of the ORM and of readiness."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from django.db.utils import ConnectionHandler

from tests.support.dependency_servers import PASSWORD
from tests.support.plugin import Servers

SETTINGS = str(Path(__file__).parents[4] / "voiceassist" / "settings.py")

Wrapper = Any  # core.clients.postgresql.base.DatabaseWrapper, which django-prometheus does not type
WithUrl = Callable[[str], Wrapper]


@pytest.fixture
def with_url(monkeypatch: pytest.MonkeyPatch) -> WithUrl:
    """Return a function that returns the database wrapper that the settings make of a URL."""

    def wrapper(url: str) -> Wrapper:
        monkeypatch.setenv("DATABASE_URL", url)
        return ConnectionHandler(runpy.run_path(SETTINGS)["DATABASES"])["default"]

    return wrapper


def query(name: str, value: str) -> str:
    return f"{name}={quote(value, safe='')}"  # libpq does not decode + as a space


def connect(wrapper: Wrapper, *settings: str) -> list[list[str]]:
    """Connect as the ORM and as readiness, and return the values of `settings` in both connections."""
    with wrapper.get_new_connection(wrapper.get_connection_params()) as orm, wrapper.open_probe(5) as probe:
        probe.check_writable(5)
        return [[value_of(name, connection) for name in settings] for connection in (orm, probe)]


def value_of(name: str, connection: psycopg.Connection[Any]) -> str:
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row
    return str(row[0])


def test_application_name(servers: Servers, with_url: WithUrl) -> None:
    for query, orm, readiness in [
        ("", "voiceassist", "voiceassist readiness"),
        ("?application_name=x", "x", "x readiness"),
    ]:
        assert connect(with_url(servers.postgres.url + query), "application_name") == [[orm], [readiness]]


@pytest.mark.parametrize(
    ("query", "search_path", "lock_timeout"),
    [
        ("", '"$user", public', "10s"),
        ("?options=", '"$user", public', "0"),  # for poolers that reject them
        ("?options=-c%20search_path%3Dva", "va", "10s"),
        ("?options=--search_path%3Dva", "va", "10s"),
        ("?options=-csearch_path%3Dva%20-c%20lock_timeout%3D3s", "va", "3s"),
    ],
)
def test_options_follow_ours(
    servers: Servers, with_url: WithUrl, query: str, search_path: str, lock_timeout: str
) -> None:
    values = connect(with_url(servers.postgres.url + query), "search_path", "lock_timeout")
    assert values == [[search_path, lock_timeout]] * 2


@pytest.mark.parametrize("seconds", ["0", "1", "10"])
def test_connect_timeout(servers: Servers, with_url: WithUrl, seconds: str) -> None:
    connect(with_url(f"{servers.postgres.url}?connect_timeout={seconds}"))


@pytest.mark.parametrize("kind", ["any", "read-write", "primary", "prefer-standby"])
def test_target_session_attrs(servers: Servers, with_url: WithUrl, kind: str) -> None:
    connect(with_url(f"{servers.postgres.url}?target_session_attrs={kind}"))


def test_passwords_and_services_in_files(
    servers: Servers, with_url: WithUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = servers.postgres.port
    passwords, services = tmp_path / "passwords", tmp_path / "services"
    escaped = PASSWORD.replace(":", r"\:")
    passwords.write_text(f"127.0.0.1:{port}:*:tester:{escaped}\n")
    passwords.chmod(0o600)
    services.write_text(f"[va]\nuser=tester\npassword={PASSWORD}\n")
    connect(with_url(f"postgres://tester@127.0.0.1:{port}/tests?{query('passfile', str(passwords))}"))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    connect(with_url(f"postgres://127.0.0.1:{port}/tests?service=va"))
