"""A plugin of pytest that uses servers that have been prepared, and runs the tests of mutants in forks.

The process has collected the tests and imported the project once. Each fork of it gets its own mutated function.
"""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop as run_tests

from tests.mutants.mutations import Mutant
from tests.mutants.forks import Outcome
from tests.mutants.patching import patch
from tests.support.plugin import SERVERS, Servers, servers

__all__ = ["servers"]  # the fixture

# A test: how long it takes in seconds, and which functions of the module it calls in its own process.
Calls = dict[str, tuple[float, list[str]]]


class Session:
    """Run the tests of one module: all of them, or for each of `mutants` those that call its function."""

    def __init__(self, servers: Servers, *, migrate: bool, calls: Calls) -> None:
        self._servers, self._migrate, self._calls = servers, migrate, calls
        self.failed = ""  # name of the first test that failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        early_config.stash[SERVERS] = self._servers

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run fast files first, and in each file the fast tests."""
        files: dict[Path, float] = defaultdict(float)
        for item in items:
            files[item.path] += self._duration(item)
        items.sort(key=lambda item: (files[item.path], item.path, self._duration(item)))

    def _duration(self, item: pytest.Item) -> float:
        return self._calls.get(item.nodeid, (0.0, []))[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.start_servers()
        return bool(run_tests(session))

    def start_servers(self) -> None:
        self._servers.start()
        if not self._migrate:
            from django.test import utils

            utils.setup_databases = _use_prepared_database  # type: ignore[assignment]
            utils.teardown_databases = lambda *_, **__: None  # type: ignore[assignment]


def _use_prepared_database(*_: object, **__: object) -> list[Any]:
    from django.db import connection

    connection.close()
    connection.settings_dict["NAME"] = "test_tests"
    return []


class Recording(Session):
    """Run all tests of a module, and record their durations and calls in `calls`."""

    def __init__(self, servers: Servers, path: Path, *, migrate: bool) -> None:
        super().__init__(servers, migrate=migrate, calls={})
        self._path = str(path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        called: set[CodeType] = set()

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename == self._path:
                called.add(frame.f_code)

        start = time.monotonic()
        sys.setprofile(profile)
        threading.setprofile(profile)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            names = sorted({code.co_qualname for code in called})
            self._calls[item.nodeid] = (round(time.monotonic() - start, 3), names)

    @property
    def calls(self) -> Calls:
        return self._calls


class Forks(Session):
    """Run the tests of each mutant in a fork, in which only the code of a function is replaced."""

    def __init__(
        self, servers: Servers, mutants: list[Mutant], path: Path, run: Callable[..., Outcome], *,
        migrate: bool, calls: Calls,
    ) -> None:  # fmt: skip
        super().__init__(servers, migrate=migrate, calls=calls)
        self._mutants, self._path, self._run = mutants, path, run
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for mutant in self._mutants:
            items = [item for item in session.items if self._calls_function(item, mutant)]
            if items:
                self.outcomes[mutant.name] = self._run(mutant, self._time(items), lambda: self._test(session, items, mutant))
        return True

    def _calls_function(self, item: pytest.Item, mutant: Mutant) -> bool:
        return any(name.split(".<locals>")[0] == mutant.function for name in self._calls.get(item.nodeid, (0, []))[1])

    def _time(self, items: list[pytest.Item]) -> float:
        return sum(map(self._duration, items))

    def _test(self, session: pytest.Session, items: list[pytest.Item], mutant: Mutant) -> str:
        """Return the name of the first test that fails. Called in the fork."""
        if not patch(mutant, str(self._path)):
            return ""
        self.start_servers()
        session.items[:] = items
        try:
            run_tests(session)
        except (session.Failed, session.Interrupted, pytest.exit.Exception):
            return self.failed or "The tests were interrupted."
        return self.failed
