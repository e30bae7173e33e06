"""A plugin of pytest that uses servers that have been prepared, and runs the tests of mutants in forks.

The process has collected the tests and imported the project once. Each fork of it gets its own mutated function.
"""

import gc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.main import pytest_runtestloop as run_tests

from tests.mutants.forks import Outcome
from tests.mutants.mutations import Mutant
from tests.mutants.patching import Change, changes, functions_of
from tests.mutants.prepared_servers import TEMPLATE
from tests.support import databases
from tests.support.plugin import SERVERS, Servers, servers

if TYPE_CHECKING:
    from tests.mutants.recording import Recorded

__all__ = ["servers"]  # the fixture

ROOT = Path(__file__).resolve().parents[2]

Tests = dict[str, "Recorded"]


class Session:
    """Run the tests of one module. `selected` are the names of those to run, None for all."""

    def __init__(self, servers: Servers, *, migrate: bool, recorded: Tests, selected: list[str] | None) -> None:
        self.servers, self._selected = servers, selected
        self.recorded = recorded
        self.failed = ""  # name of the first test that failed
        if not migrate:
            vars(databases)["migrated_template"] = lambda _: TEMPLATE

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        early_config.stash[SERVERS] = self.servers

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run fast files first, and in each file the fast tests."""
        if self._selected is not None:
            items[:] = [item for item in items if item.nodeid in self._selected]
        files: dict[Path, float] = defaultdict(float)
        for item in items:
            files[item.path] += self._duration(item)
        items.sort(key=lambda item: (files[item.path], item.path, self._duration(item)))

    def _duration(self, item: pytest.Item) -> float:
        return self.recorded[item.nodeid][0] if item.nodeid in self.recorded else 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.servers.start()
        return bool(run_tests(session))


class Forks(Session):
    """Run the tests of each mutant in a fork, in which only the code of a function is replaced."""

    def __init__(
        self, servers: Servers, mutants: dict[Mutant, list[str]], run: Callable[..., Outcome], recorded: Tests
    ) -> None:
        super().__init__(servers, migrate=False, recorded=recorded, selected=None)
        self._mutants, self._run = mutants, run
        self.outcomes: dict[str, Outcome] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        path = str(ROOT / next(iter(self._mutants)).module)
        functions = functions_of(path)
        gc.freeze()  # otherwise the garbage collection of each fork copies the memory of all imported modules
        for mutant, names in self._mutants.items():
            changed = changes(mutant, functions, path)
            if changed:
                items = [item for item in session.items if item.nodeid in names]
                test = partial(self._test, session, items, changed)
                self.outcomes[mutant.name] = self._run(mutant, sum(map(self._duration, items)), test)
        return True

    def _test(self, session: pytest.Session, items: list[pytest.Item], changed: list[Change]) -> str:
        """Return the name of the first test that fails. Called in the fork."""
        for function, code in changed:
            function.__code__ = code
        self.servers.start()
        session.items[:] = items
        try:
            run_tests(session)
        except (session.Failed, session.Interrupted, pytest.exit.Exception):
            return self.failed or "The tests were interrupted."
        return self.failed
