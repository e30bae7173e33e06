"""A filter for libraries that log the same failure every few seconds while a dependency is down."""

import logging
import math
from time import monotonic

INTERVAL = 60.0  # seconds between two lines with the same message


class RepeatedFilter:
    """Let one record per minute and message of the logger `prefix` pass, and every record of other loggers.

    `logging` calls filters of a handler without its lock, so two threads may log the same message once each.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._logged_at: dict[str, float] = {}  # by format string, so that it does not grow

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != self._prefix and not record.name.startswith(f"{self._prefix}."):
            return True
        message = str(record.msg)
        now = monotonic()
        if now - self._logged_at.get(message, -math.inf) < INTERVAL:
            return False
        self._logged_at[message] = now
        return True
