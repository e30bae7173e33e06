"""Start the next round of checks before the latest report expires, so that probes do not wait for it.

    max_age 1 s, a probe every second:   used at 0.0, round at 0.5, used at 1.0, round at 1.5, …

A round starts half of `max_age` after a report was first used. A probe that comes at least every 1.5 × `max_age` then
always finds a report that has not expired. That includes load balancers that probe once per second, the default of
HEALTH_MAX_AGE. Rounds that started at a fixed age of the report would drift to just after such a probe, so that its
report would have expired at the next one. When nobody uses the new report, no other round follows.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from health.check_runner import Report, Runner


class RefreshingRunner(Runner):
    """A runner whose reports, while they are used, are replaced before they are `max_age` seconds old."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._used: Report | None = None  # the latest report that was used
        self._reuse = threading.local()

    @contextmanager
    def reusing_latest(self) -> Iterator[None]:
        """Let `report` return the latest report inside the block, in this thread, however old it is."""
        self._reuse.is_on = True
        try:
            yield
        finally:
            self._reuse.is_on = False

    def report(self) -> Report:
        is_reusing = getattr(self._reuse, "is_on", False)
        report = self.latest if is_reusing and self.latest else super().report()
        if report is not self._used and self.max_age:
            self._use(report)
        return report

    def _use(self, report: Report) -> None:
        with self._lock:
            if self._used and report.finished_at <= self._used.finished_at:
                return
            self._used = report
        timer = threading.Timer(self.max_age / 2, self._replace, (report,))
        timer.name, timer.daemon = "check-refresh", True
        with suppress(RuntimeError):  # no thread can be started, so the next probe waits for its round
            timer.start()

    def _replace(self, report: Report) -> None:
        """Run a round, unless there is a newer report."""
        with self._lock:
            if self.latest is not report:
                return
            round_ = self._join_or_start_round()
        self._finish_round(round_)
