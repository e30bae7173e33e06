"""Dramatiq logs an outage of Redis every few seconds. One line per minute is enough."""

import logging

import pytest

from voiceassist.logs.repeated import RepeatedFilter


@pytest.mark.parametrize(
    ("name", "passed"),
    [
        ("dramatiq", [True, False, True]),
        ("dramatiq.worker.ConsumerThread(jobs)", [True, False, True]),
        ("dramatiquement", [True, True, True]),
        ("voiceassist.jobs", [True, True, True]),
    ],
)
def test_repeated_records(monkeypatch: pytest.MonkeyPatch, name: str, passed: list[bool]) -> None:
    only = RepeatedFilter("dramatiq")
    results = []
    for now in (100.0, 159.0, 160.0):
        monkeypatch.setattr("voiceassist.logs.repeated.monotonic", lambda now=now: now)
        record = logging.makeLogRecord({"name": name, "msg": "connection error: %s", "args": (now,)})
        results.append(only.filter(record))
    assert results == passed
    other = logging.makeLogRecord({"name": name, "msg": "another message"})
    assert only.filter(other)
