"""Warnings about the database are refreshed rarely, never fail a check, and are logged and measured."""

import re
from typing import Any

import psycopg
import pytest
from django.db import connections
from prometheus_client import REGISTRY

from core.clients.postgresql import connection_limit
from core.clients.postgresql.connection_limit import ConnectionUsage
from core.clients.postgresql.probe import ProbeConnection
from health import database_warnings, metrics
from health.checks.postgres import postgres
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.polling import ends_within, succeeds_within
from tests.support.voiceassist_server import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


class Source:
    """A source that returns `problems`, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.problems: dict[str, str] = {}
        self.statement = "SELECT 1"

    def __call__(self, connection: "psycopg.Connection[Any]") -> dict[str, str]:
        self.calls += 1
        connection.execute(self.statement.encode())
        return self.problems


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    only = Source()
    monkeypatch.setattr(database_warnings, "SOURCES", (only,))
    monkeypatch.setattr(database_warnings, "current", {})
    monkeypatch.setattr(database_warnings, "_next_refresh", 0.0)
    monkeypatch.setattr(database_warnings, "_logged", set())
    return only


@pytest.fixture
def probe() -> Any:
    connection: ProbeConnection = connections["default"].open_probe(10)  # type: ignore[attr-defined]  # our backend
    yield connection
    connection.close()


def refresh_now(probe: ProbeConnection, monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    monkeypatch.setattr(database_warnings, "_next_refresh", 0.0)
    database_warnings.refresh(probe, seconds)


def test_check_refreshes_at_most_once_per_interval(source: Source) -> None:
    drop_readiness_connections()
    source.problems = {"logs_values": "message"}
    for _ in range(5):
        postgres(10)
    assert source.calls == 1
    assert database_warnings.current == {"logs_values": "message"}


@pytest.mark.parametrize("statement", ["SELECT 1/0", "SELECT pg_sleep(20)"])
def test_failing_or_hanging_source_changes_nothing(
    source: Source, probe: ProbeConnection, statement: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    source.problems = {"logs_values": "message"}
    refresh_now(probe, monkeypatch)
    source.problems, source.statement = {}, statement
    with ends_within(3):
        refresh_now(probe, monkeypatch, seconds=0.2)
    assert database_warnings.current == {"logs_values": "message"}
    assert "could not be refreshed" in caplog.text


def test_check_succeeds_although_a_source_hangs(source: Source) -> None:
    drop_readiness_connections()
    source.statement = "SELECT pg_sleep(20)"
    with ends_within(1):  # the limit of the check
        assert postgres(1).version
    assert postgres(10).version  # the connection, or a new one, still works


def test_warning_is_logged_when_it_appears_and_measured(
    source: Source, probe: ProbeConnection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def value(kind: str) -> float | None:
        return REGISTRY.get_sample_value("voiceassist_database_warning", {"kind": kind})

    source.problems = {"logs_values": "the message"}
    for _ in range(3):
        refresh_now(probe, monkeypatch)
        database_warnings.observe()
    assert caplog.text.count("the message") == 1
    assert (value("logs_values"), value("connection_limit")) == (1, 0)
    source.problems = {}
    refresh_now(probe, monkeypatch)
    database_warnings.observe()
    assert value("logs_values") == 0
    source.problems = {"logs_values": "the message"}
    refresh_now(probe, monkeypatch)
    database_warnings.observe()
    assert caplog.text.count("the message") == 2


# Connections


def usage() -> ConnectionUsage:
    assert database_warnings.connection_usage
    return database_warnings.connection_usage


def test_connections_of_all_clients_are_counted(
    probe: ProbeConnection, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_now(probe, monkeypatch)
    assert (usage().maximum, usage().reserved) == (100, 3)  # PostgreSQL's defaults
    assert str(usage()) == f"{usage().used} of 97 connections"
    with psycopg.connect(servers.postgres.url) as observer:  # a superuser sees what each process is
        # Connections that earlier tests have closed may take a moment to end.
        assert succeeds_within(5, lambda: has_counted_the_clients(observer, probe, monkeypatch))
        others = [psycopg.connect(servers.postgres.url) for _ in range(4)]
        try:
            assert succeeds_within(5, lambda: has_counted_the_clients(observer, probe, monkeypatch))
            assert usage().used >= len(others) + 2
        finally:
            for other in others:
                other.close()
    database_warnings.observe()
    for state, value in (("used", usage().used), ("reserved", 3), ("max", 100)):
        assert REGISTRY.get_sample_value("voiceassist_database_server_connections", {"state": state}) == value


def has_counted_the_clients(
    observer: "psycopg.Connection[Any]", probe: ProbeConnection, monkeypatch: pytest.MonkeyPatch
) -> bool:
    refresh_now(probe, monkeypatch)
    observer.rollback()  # statistics of sessions are the same throughout a transaction
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    return bool(observer.execute(clients).fetchone() == (usage().used,))


def test_check_reports_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_readiness_connections()
    monkeypatch.setattr(database_warnings, "_next_refresh", 0.0)
    assert re.fullmatch(r"[0-9]+ of 97 connections", postgres(10).usage or "")


@pytest.mark.parametrize(
    ("valid_until", "is_reported"),
    [("now() + interval '13 days'", True), ("now() + interval '15 days'", False), ("'infinity'::timestamptz", False)],
)
def test_password_that_expires_is_reported(servers: Servers, valid_until: str, is_reported: bool) -> None:
    with psycopg.connect(servers.postgres.url) as connection:  # rolled back at the end
        connection.execute(
            f"DO $$ BEGIN EXECUTE format('ALTER ROLE tester VALID UNTIL %L', {valid_until}); END $$".encode()
        )
        _, problems = connection_limit.find_problems(connection)
        assert ("password_expires" in problems) is is_reported
        connection.rollback()


# Documentation


def test_runbook_explains_every_kind() -> None:
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    assert [kind for kind in metrics.DATABASE_WARNINGS if f"| `{kind}` |" not in runbook] == []
