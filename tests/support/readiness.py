"""Run a single readiness check against servers of a test, and find out whether a thread waits for a report."""

import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from core.clients.redis import ConnectionFactory
from health import readiness
from health.check_runner import Result, Runner
from health.checks import checks
from tests.support.plugin import drop_readiness_connections


def check(name: str, timeout: float = 5.0) -> Result:
    """Return the result of a new runner, as in a new process."""
    runner = Runner(checks([name]), timeout=timeout, max_age=0, explain=readiness.explain)
    return runner.report().results[0]


def is_waiting(caller: threading.Thread) -> bool:
    """Return whether the thread waits inside `Runner.report` for the end of a round."""
    frame = sys._current_frames().get(caller.ident or 0)
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return False
    while frame and frame.f_code is not Runner.report.__code__:
        frame = frame.f_back
    return frame is not None


class RedisUrl:
    """Makes readiness and the cache use a URL, as the environment variable does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, url: str) -> None:
        caches: Any = deepcopy(django_settings.CACHES)
        caches["default"]["LOCATION"] = [url]
        self._settings.CACHES = caches
        self._settings.REDIS_URL = url
        drop_readiness_connections()


@pytest.fixture
def use_url(settings: Settings) -> Iterator[RedisUrl]:
    yield RedisUrl(settings)
    drop_readiness_connections()
    ConnectionFactory._pools.clear()
