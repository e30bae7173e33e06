"""Wait for a condition, and limit how long something may take, with one factor for slow machines.

On a machine that is slower than two idle cores, set TESTS_SLOWNESS to how much slower it is.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOWNESS = float(os.environ.get("TESTS_SLOWNESS", "1"))
NOISE = 2.0 * SLOWNESS  # seconds that other processes of the machine may add to a duration


def succeeds_within(seconds: float, condition: Callable[[], object], *, interval: float = 0.05) -> bool:
    """Return whether the condition becomes true in time. It is evaluated every `interval` seconds."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


@contextmanager
def ends_within(seconds: float, *, noise: float = NOISE) -> Iterator[None]:
    """Fail if the block takes longer than `seconds` and the noise."""
    started_at = time.monotonic()
    yield
    duration = time.monotonic() - started_at
    assert duration < seconds + noise, f"It took {duration:.2f} s instead of {seconds} s."
