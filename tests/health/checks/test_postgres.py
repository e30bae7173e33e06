"""What `checkdeps`, the log and the status page show for PostgreSQL, and how its result opens the circuit breaker."""

import re
from importlib import import_module

import psycopg
import pytest
from django.db import connections

from core.clients import database_url
from core.clients.postgresql.circuit_breaker import State, circuit_breaker
from core.clients.postgresql.errors import CommitNotReplicated, NoResponse
from health import database_warnings
from health.checks.postgres import postgres_endpoint
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.readiness import check

MODULE = import_module("health.checks.postgres")  # the package has a function of this name


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("postgres://user:password@db/va", "db:5432/va"),
        ("postgres://db1,db2:6000/va", "db1:5432,db2:6000/va"),
        ("postgres:///va", "localhost:5432/va"),
        ("postgres://%2Frun%2Fpostgresql/va", "/run/postgresql/va"),
        ("postgres:///va?hostaddr=10.0.0.1,10.0.0.2&port=1,2", "10.0.0.1:1,10.0.0.2:2/va"),
        ("postgres://db1,db2/va?hostaddr=10.0.0.1,10.0.0.2&port=6000", "db1:6000,db2:6000/va"),
    ],
)
def test_endpoint(monkeypatch: pytest.MonkeyPatch, url: str, endpoint: str) -> None:
    parsed = database_url.parse(url)
    for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"):
        monkeypatch.setitem(connections["default"].settings_dict, name, parsed[name])
    assert postgres_endpoint() == endpoint


def test_shows_the_version_and_the_connections(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_warnings, "_next_refresh", 0.0)
    result = check("postgres")
    with psycopg.connect(servers.postgres.url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert (result.healthy, result.version) == (True, row and row[0])
    assert re.fullmatch(r"\d+ of \d+ connections", result.usage or "")


def test_shows_no_connections_before_they_were_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_warnings, "connection_usage", None)
    monkeypatch.setattr(database_warnings, "refresh", lambda connection, seconds: None)
    result = check("postgres")
    assert (result.healthy, result.usage) == (True, None)


def test_reading_the_settings_has_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []
    monkeypatch.setattr(MODULE, "find_problem", lambda connection: limits.append(connection.timeout))
    MODULE.connect(5.0).close()
    (limit,) = limits
    assert limit is not None and 0 < limit < 5.0


@pytest.mark.parametrize(("has_responded", "state"), [(False, State.SUSPECTED), (True, State.OPEN)])
def test_requests_are_rejected_if_a_server_that_responded_no_longer_does(
    monkeypatch: pytest.MonkeyPatch, has_responded: bool, state: State
) -> None:
    def fail(*args: object) -> None:
        raise NoResponse

    monkeypatch.setattr(MODULE, "_has_responded", has_responded)
    monkeypatch.setattr(MODULE._connection, "run", fail)
    circuit_breaker.close()
    try:
        assert check("postgres").reason == "timeout"
        assert circuit_breaker.is_in(state)
    finally:
        circuit_breaker.close()


def test_commit_that_is_not_replicated_rejects_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise CommitNotReplicated

    monkeypatch.setattr(MODULE._connection, "run", fail)
    try:
        assert not check("postgres").healthy
        assert circuit_breaker.is_in(State.OPEN)
    finally:
        circuit_breaker.close()
    monkeypatch.undo()
    drop_readiness_connections()
    assert check("postgres").healthy and circuit_breaker.is_in(State.CLOSED)
