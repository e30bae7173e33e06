"""How long checks took in the last minutes, as a small graph: SVG that needs no style of its own.

A bar is as high as its slowest check; one in which a check failed fills the whole height, whatever the time was.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from health.multiprocess.check_history import BUCKET, BUCKETS, current_bucket
from health.templatetags.durations import lasting, latency

WIDTH, HEIGHT = 240, 36
_BAR, _GAP = WIDTH // BUCKETS, 1
_TOP = 6  # free above the highest bar of checks that went well
_LEAST_MS = 10.0  # the scale's end, so that noise of less looks small


@dataclass(frozen=True, slots=True)
class Graph:
    bars: str  # a path
    failures: str  # another
    words: str


def draw(accounts: Iterable[Mapping[str, tuple[float, bool]]]) -> Graph:
    """Puts the buckets of all workers together, and draws."""
    last = current_bucket()
    together: dict[int, tuple[float, bool]] = {}
    for buckets in accounts:
        for key, (slowest, broke) in buckets.items():
            place = BUCKETS - 1 - (last - int(key))
            if 0 <= place < BUCKETS:
                before = together.get(place, (0.0, False))
                together[place] = (max(before[0], slowest), before[1] or broke)
    well = {place: slowest for place, (slowest, broke) in together.items() if not broke}
    failed = [place for place, (_, broke) in together.items() if broke]
    scale = max([_LEAST_MS, *well.values()])
    return Graph(
        bars="".join(_bar(place, (HEIGHT - _TOP) * slowest / scale) for place, slowest in sorted(well.items())),
        failures="".join(_bar(place, HEIGHT) for place in sorted(failed)),
        words=_words(well.values(), len(failed)),
    )


def _words(well: Collection[float], failed: int) -> str:
    slowest = f"at most {latency(max(well))}" if well else "never healthy"
    return f"{slowest}, failed for about {lasting(failed * BUCKET)}" if failed else slowest


def _bar(place: int, height: float) -> str:
    height = max(1.5, height)
    return f"M{place * _BAR} {HEIGHT}v-{height:.1f}h{_BAR - _GAP}V{HEIGHT}z"
