"""Shared by the benchmarks: interleaved timing, and a table of results with targets."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.smoke import IS_SMOKE


class Table:
    """Print one row per measurement, with both values, their ratio and the target. Set `missed` if it is missed."""

    missed = False

    _has_head = False

    def row(self, measure: str, ours: float, theirs: float, target: float, *, at_most: bool = False) -> None:
        if not self._has_head:
            print(f"{'measure':<68} {'ours':>9} {'theirs':>9} {'ratio':>8} target")
            self._has_head = True
        ratio = ours / theirs
        is_met = ratio <= target if at_most else ratio >= target
        self.missed |= not is_met and not IS_SMOKE
        sign = "≤" if at_most else "≥"
        print(f"{measure:<68} {ours:9.4g} {theirs:9.4g} {ratio:8.2f} {sign} {target:<5} {'' if is_met else 'MISSED'}",
              flush=True)  # fmt: skip


def interleaved_medians(*calls: Callable[[], Any], rounds: int) -> list[float]:
    """Return the median milliseconds of each call. Calls are interleaved, so that a slow machine affects all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(1 if IS_SMOKE else rounds):
        for call, durations in zip(calls, times, strict=True):
            started_at = time.perf_counter()
            call()
            durations.append((time.perf_counter() - started_at) * 1000)
    return [statistics.median(durations) for durations in times]
