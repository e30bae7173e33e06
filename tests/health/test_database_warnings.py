"""Warnings about the database are refreshed rarely, never fail a check, and are logged and measured."""

import time
from typing import Any

import psycopg
import pytest
from django.db import connections
from prometheus_client import REGISTRY

from core.clients.postgresql.probe import ProbeConnection
from health import database_warnings, metrics
from health.checks.postgres import postgres
from tests.support.plugin import drop_readiness_connections
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
    started_at = time.monotonic()
    refresh_now(probe, monkeypatch, seconds=0.2)
    assert time.monotonic() - started_at < 5
    assert database_warnings.current == {"logs_values": "message"}
    assert "could not be refreshed" in caplog.text


def test_check_succeeds_although_a_source_hangs(source: Source) -> None:
    drop_readiness_connections()
    source.statement = "SELECT pg_sleep(20)"
    started_at = time.monotonic()
    assert postgres(1).version
    assert time.monotonic() - started_at < 1 + 1  # the limit of the check, and time for a busy machine
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


def test_runbook_explains_every_kind() -> None:
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    assert [kind for kind in metrics.DATABASE_WARNINGS if f"| `{kind}` |" not in runbook] == []
