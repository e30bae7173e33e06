"""What the benchmarks share: a table of ratios against targets, and taking turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.smoke import IS_SMOKE


class Table:
    """Prints a row a measure: ours, theirs, the ratio, the target; and knows whether any was missed."""

    missed = False

    def __init__(self) -> None:
        print(f"{'measure':<68} {'ours':>9} {'theirs':>9} {'ratio':>8} target")

    def row(self, measure: str, ours: float, theirs: float, target: float, *, at_most: bool = False) -> None:
        ratio = ours / theirs
        good = ratio <= target if at_most else ratio >= target
        self.missed |= not good and not IS_SMOKE
        sign = "≤" if at_most else "≥"
        print(f"{measure:<68} {ours:9.4g} {theirs:9.4g} {ratio:8.2f} {sign} {target:<5} {'' if good else 'MISSED'}",
              flush=True)  # fmt: skip


def taking_turns(*calls: Callable[[], Any], rounds: int) -> list[float]:
    """Returns the median milliseconds of each, called one after another: a machine that slows down slows all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(1 if IS_SMOKE else rounds):
        for call, taken in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            taken.append((time.perf_counter() - began) * 1000)
    return [statistics.median(taken) for taken in times]
