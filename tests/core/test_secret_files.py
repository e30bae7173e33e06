"""Rejected logins don't read the files of secrets all the time. tests/security/test_rotation.py has the rest."""

import pytest
from pytest_django import Settings

from core import secret_files


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows with each reading, which fails."""
    readings: list[None] = []

    def execute_settings() -> None:
        readings.append(None)
        raise SystemExit("voiceassist: NAME: problem")

    monkeypatch.setattr(secret_files, "_execute_settings", execute_settings)
    monkeypatch.setattr(secret_files, "_next_reading", 0.0)
    monkeypatch.setattr(secret_files, "_MIN_INTERVAL", 3600.0)
    return readings


def test_many_rejections_read_the_files_once(readings: list[None], settings: Settings) -> None:
    settings.READS_FILES = True
    for _ in range(100):
        secret_files.reload_after_rejection()
    assert len(readings) == 1


def test_nothing_is_read_without_files(readings: list[None], settings: Settings) -> None:
    settings.READS_FILES = False
    secret_files.reload_after_rejection()
    assert readings == []


def test_repeated_problem_is_logged_once(
    readings: list[None], settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.READS_FILES = True
    monkeypatch.setattr(secret_files, "_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(secret_files, "_last_problem", "")
    for _ in range(3):
        secret_files.reload_after_rejection()
    assert len(readings) == 3
    assert caplog.text.count("The secrets were not read again.") == 1
