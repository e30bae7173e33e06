"""Wait for a condition."""

import time
from collections.abc import Callable


def succeeds_within(seconds: float, condition: Callable[[], object], *, interval: float = 0.05) -> bool:
    """Return whether the condition becomes true in time. It is evaluated every `interval` seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
