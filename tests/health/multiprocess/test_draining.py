"""What the server logs when it has drained."""

import logging

import pytest

from health.multiprocess import draining

INFO, WARNING = logging.INFO, logging.WARNING


def test_drains_after_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_times", [0.0, 0.0])
    assert not draining.is_draining()
    draining.begin()
    assert draining.is_draining()


@pytest.mark.parametrize(
    ("last", "stopped", "level", "text"),
    [
        (None, 10.2, INFO, "Drained. No request came after SIGTERM; DRAIN_SECONDS is 10."),
        (0.6, 10.2, INFO, "Drained. The last request came 0.6 s after SIGTERM; DRAIN_SECONDS is 10."),
        (7.4, 39.0, INFO, "Drained. The last request came 7.4 s"),
        (7.6, 10.2, WARNING, "Requests still came at the end of the drain. Raise DRAIN_SECONDS, or check"),
        (11.5, 12.5, WARNING, "Requests still came at the end of the drain."),  # on a kept-alive connection
        (0.6, 40.1, WARNING, "Stopped requests that were not finished 30 s after the drain. The last request came 0.6"),
        (9.9, 40.1, WARNING, "Stopped requests that were not finished 30 s after the drain."),
        (0.6, 3.0, WARNING, "Stopped before the drain ended, because a second signal came."),
    ],
)
def test_result_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    last: float | None,
    stopped: float,
    level: int,
    text: str,
) -> None:
    begin = 1000.0
    monkeypatch.setattr(draining, "_times", [begin, begin + last if last is not None else 0.0])
    monkeypatch.setattr("time.monotonic", lambda: begin + stopped)
    log = logging.getLogger("test")
    with caplog.at_level(INFO, "test"):
        draining.log_result(log, drain_seconds=10.0, graceful_timeout=30)
    ((_, logged_level, message),) = caplog.record_tuples
    assert logged_level == level
    assert message.startswith(text)
