"""A small bar graph of a dependency's recent latencies, as SVG paths that status.css styles.

The height of a bar is the slowest check of its five seconds. If a check failed, the bar has the full height.
"""

import time
from collections.abc import Iterable, Sequence

from core.durations import format_duration
from health.multiprocess.worker_states import BUCKET_SECONDS, MAX_BUCKETS, Bucket
from health.templatetags.times import latency

_WIDTH, _HEIGHT = 240, 36  # the viewBox in status_fragment.html has the same size
_MAX_BAR_HEIGHT = 30  # of successful checks
_MIN_BAR_HEIGHT = 1.5
_MIN_SCALE = 10.0  # milliseconds at full height: smaller variations are noise


def draw(workers: Iterable[Sequence[Bucket]]) -> dict[str, str]:
    """Return the paths `bars` and `failures`, and a `label`, of the buckets of all workers together."""
    first = int(time.time() // BUCKET_SECONDS) - MAX_BUCKETS + 1
    slowest: dict[int, float] = {}
    failed: set[int] = set()
    for number, milliseconds, has_failed in (bucket for buckets in workers for bucket in buckets):
        if number < first:
            continue
        if has_failed:
            failed.add(number - first)
        else:
            slowest[number - first] = max(milliseconds, slowest.get(number - first, 0.0))
    successes = {position: milliseconds for position, milliseconds in slowest.items() if position not in failed}
    scale = max([_MIN_SCALE, *successes.values()])
    label = f"max {latency(max(successes.values()))}" if successes else "no successful check"
    if failed:
        label += f", failed for about {format_duration(len(failed) * BUCKET_SECONDS)}"
    return {
        "bars": "".join(_bar(position, _MAX_BAR_HEIGHT * value / scale) for position, value in successes.items()),
        "failures": "".join(_bar(position, _HEIGHT) for position in failed),
        "label": label,
    }


def _bar(position: int, height: float) -> str:
    width = _WIDTH // MAX_BUCKETS
    return f"M{position * width} {_HEIGHT}v-{max(_MIN_BAR_HEIGHT, height):.1f}h{width - 1}V{_HEIGHT}z"
