"""What the check `migrations` concludes from the rows of django_migrations, without a database.

tests/health/test_readiness.py and tests/core/management/test_schema_compatibility.py read them from PostgreSQL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from packaging.version import Version
from pytest_django import Settings

from core.clients.postgresql.errors import ReadOnly
from health.checks.failure_reasons import CheckFailed

checked: Any = import_module("health.checks.migrations")  # `health.checks` has a function of this name
KNOWN: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("core", "0001_initial"): [],
    ("core", "0002_squashed"): [("core", "0002_a"), ("core", "0003_b")],
    ("otp", "0001_initial"): [],
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "migrations_on_disk", lambda: KNOWN)


def apply(monkeypatch: pytest.MonkeyPatch, names: set[tuple[str, str]], *, oldest: str | None = None) -> None:
    """Let the database report these migrations, and the oldest version that they allow."""
    applied = checked._Applied(names, Version(oldest) if oldest else None)
    monkeypatch.setattr(checked, "connection", SimpleNamespace(run=lambda query, seconds: applied))


def failure() -> tuple[str, str]:
    with pytest.raises(CheckFailed) as raised:
        checked.migrations(1.0)
    return raised.value.reason, str(raised.value)


def test_all_migrations_are_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, set(KNOWN) | {("core", "0099_newer_code")})
    assert checked.migrations(1.0).endpoint == "3 applied"


def test_replaced_migrations_count_as_the_squashed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    others = set(KNOWN) - {("core", "0002_squashed")}
    apply(monkeypatch, others | {("core", "0002_a"), ("core", "0003_b")})
    assert checked.migrations(1.0).endpoint == "3 applied"
    for missing in ({("core", "0002_a")}, {("core", "0003_b")}, set[tuple[str, str]]()):
        apply(monkeypatch, others | missing)
        assert failure() == ("migrations_pending", "unapplied: core.0002_squashed")


def test_migration_of_another_app_with_the_same_name_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, set(KNOWN) - {("otp", "0001_initial")})
    assert failure() == ("migrations_pending", "unapplied: otp.0001_initial")


def test_lists_three_migrations_and_the_number_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, set())
    assert failure()[1] == "unapplied: core.0001_initial, core.0002_squashed, otp.0001_initial"
    monkeypatch.setattr(checked, "migrations_on_disk", lambda: {("b", str(number)): [] for number in range(5)})
    assert failure()[1] == "unapplied: b.0, b.1, b.2 and 2 more"


@pytest.mark.parametrize(("version", "is_allowed"), [("1.2.2", False), ("1.2.3", True), ("1.10.0", True)])
def test_version_that_the_migrations_allow(
    version: str, is_allowed: bool, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.VERSION = version
    apply(monkeypatch, set(KNOWN), oldest="1.2.3")
    if is_allowed:
        assert checked.migrations(1.0).endpoint == "3 applied"
        assert checked.migrations_for(Version(version), 1.0).endpoint == f"version {version} may run on this database"
        return
    detail = f"the database requires version 1.2.3 or newer, and this is {version}"
    assert failure() == ("schema_too_new", detail)
    with pytest.raises(CheckFailed, match=detail) as raised:
        checked.migrations_for(Version(version), 1.0)
    assert raised.value.reason == "schema_too_new"


def test_too_new_schema_precedes_pending_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, set(), oldest="99.0.0")
    assert failure()[0] == "schema_too_new"


def test_any_version_is_allowed_if_no_migration_declares_one(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(monkeypatch, set(KNOWN))
    assert checked.migrations_for(Version("0.0.1"), 1.0).endpoint == "version 0.0.1 may run on this database"


def test_migrations_of_this_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    on_disk = checked.migrations_on_disk()
    assert on_disk[("core", "0001_initial")] == []
    assert {app for app, _ in on_disk} >= {"core", "auth", "contenttypes", "sessions"}
    assert checked.migrations_on_disk() is on_disk  # read once


# The query


class Database:
    """Stands for a connection. `rows` are those of django_migrations with the comment, None if there is no table."""

    def __init__(self, rows: list[tuple[str, str, str | None]] | None, *, is_read_only: bool = False) -> None:
        read_only = "on" if is_read_only else "off"
        self.rows = None if rows is None else [(*row, read_only) for row in rows]
        self.limits: list[float] = []

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        self.limits.append(seconds)
        yield

    def execute(self, statement: bytes) -> "Database":
        assert statement.startswith(b"SELECT app, name, ")
        if self.rows is None:
            raise psycopg.errors.UndefinedTable
        return self

    def fetchall(self) -> list[tuple[str, str, str | None, str]]:
        return self.rows or []


def test_query() -> None:
    comment = "Oldest versions of VoiceAssist that the applied migrations allow: 1.2.3"
    database = Database([("core", "0001_initial", comment), ("otp", "0002_b", comment)])
    found = checked._query(database, 0.5)
    assert found == ({("core", "0001_initial"), ("otp", "0002_b")}, Version("1.2.3"))
    assert database.limits == [0.5]
    assert checked._query(Database([("core", "0001_initial", None)]), 0.5) == ({("core", "0001_initial")}, None)


@pytest.mark.parametrize("rows", [None, []], ids=["no table", "empty table"])
def test_query_of_a_database_without_migrations(rows: list[tuple[str, str, str | None]] | None) -> None:
    assert checked._query(Database(rows), 0.5) == (set(), None)


def test_read_only_session_is_refused() -> None:
    """A new connection finds the new primary after a failover."""
    with pytest.raises(ReadOnly, match=r"^the session is read-only$"):
        checked._query(Database([("core", "0001_initial", None)], is_read_only=True), 0.5)
