"""Run the tests of mutants in a copy of the project. `tests.mutants` starts it there, and sends it jobs as JSON lines.

The worker has imported libraries, but nothing of the project, and has prepared the data of the servers with a migrated
database. Each fork starts its own servers from a copy of this data, so that no mutant disturbs the next one.

                     fork for a job                     fork for each mutant in a function
    worker ────────> imports the project, collects ────> gets the mutated function, runs tests that call it
       └───────────> for other mutants: imports the mutated module, runs all tests
                     for mutants that survived in the fork: runs the tests that reach other processes
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module, metadata
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from tests.mutants.forks import Outcome, outcome_of, run_in_fork
from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.patching import is_in_function
from tests.mutants.prepared_servers import PreparedServers

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("core", "health", "voiceassist", "tests")
MAX_JOB_SECONDS = 7200
MIN_LIMIT, LIMIT_FACTOR = 30, 5  # the time limit of a fork: 30 s, and five times what its tests usually take


class Worker:
    def __init__(self, prepared: PreparedServers) -> None:
        self._prepared = prepared

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        module, tests = job["module"], job["tests"]
        if "names" not in job:
            return self._run_clean(module, tests)
        mutants = [mutant for mutant in _mutants_of(module) if mutant.name in job["names"]]
        recorded, imported = job["clean"]["recorded"], job["clean"]["imported"]
        callers = {
            mutant: tests_that_call(mutant, recorded)
            for mutant in mutants if mutant.function and is_in_function(mutant) and not is_migration(module)
        }  # fmt: skip
        outcomes = self._run_in_functions(
            {mutant: names for mutant, names in callers.items() if names}, tests, recorded
        )
        for mutant in mutants:
            outcome = outcomes.get(mutant.name)
            names = list(recorded)
            if outcome and not any(name.split(".<locals>")[0] == mutant.function for name in imported):
                # What the fork has not seen: tests that reach other processes.
                names = [name for name, test in recorded.items() if test[2]]
            if outcome is None or outcome.status == "survived" and names:
                outcomes[mutant.name] = self._run_selected(mutant, tests, recorded, names)
        return {"outcomes": outcomes}

    def _run_clean(self, module: str, tests: list[str]) -> dict[str, Any]:
        def record() -> str:
            from tests.mutants.recording import Recording

            recording = Recording(self._prepared.servers, ROOT / module, migrate=is_migration(module))
            failed = self._pytest(tests, recording)
            return json.dumps({"failed": failed, "imported": recording.imported, "recorded": recording.recorded})

        self._prepared.restore()
        clean = dict(json.loads(run_in_fork(record, MAX_JOB_SECONDS)))
        if clean["failed"]:
            return clean
        # Tests that fail in the order of the mutants' runs would kill every mutant.
        recorded = clean["recorded"]
        test = partial(self._test_selected, module, tests, recorded, list(recorded), stop=False)
        unreliable = self._run_unchanged(_seconds(recorded, recorded), test).splitlines()
        clean["recorded"] = {name: test for name, test in recorded.items() if name not in unreliable}
        return {**clean, "unreliable": unreliable}

    def _run_in_functions(
        self, mutants: dict[Mutant, list[str]], tests: list[str], recorded: Any
    ) -> dict[str, Outcome]:
        def collect() -> str:
            from tests.mutants.session import Forks

            forks = Forks(self._prepared.servers, mutants, recorded, self._run_mutant, self._run_unchanged)
            failed = self._pytest(tests, forks)
            return json.dumps({"failed": failed, "outcomes": forks.outcomes})

        if not mutants:
            return {}
        self._prepared.restore()
        done = json.loads(run_in_fork(collect, MAX_JOB_SECONDS))
        if done["failed"]:
            raise RuntimeError(f"The tests can't be collected: {done['failed']}")
        return {name: Outcome(*outcome) for name, outcome in done["outcomes"].items()}

    def _run_selected(self, mutant: Mutant, tests: list[str], recorded: Any, names: list[str]) -> Outcome:
        test = partial(self._test_selected, mutant.module, tests, recorded, names, stop=True)
        return self._run_mutant(mutant, _seconds(recorded, names), test)

    def _test_selected(self, module: str, tests: list[str], recorded: Any, names: list[str], *, stop: bool) -> str:
        from tests.mutants.session import Session

        servers = self._prepared.servers
        session = Session(servers, migrate=is_migration(module), recorded=recorded, selected=names)
        return self._pytest(tests, session, stop=stop)

    def _run_unchanged(self, seconds: float, test: Callable[[], str]) -> str:
        """Return the names of the tests that fail without a mutant."""
        self._prepared.restore()
        return run_in_fork(test, MIN_LIMIT + LIMIT_FACTOR * seconds)

    def _run_mutant(self, mutant: Mutant, seconds: float, test: Any) -> Outcome:
        """Write the mutant and run its tests in a fork. They usually take `seconds`."""
        self._prepared.restore()
        with self._written_mutant(mutant):
            return outcome_of(test, MIN_LIMIT + LIMIT_FACTOR * seconds)

    @contextmanager
    def _written_mutant(self, mutant: Mutant) -> Iterator[None]:
        """Write the mutant into the copy of the project, where processes that tests start import it too."""
        path = ROOT / mutant.module
        modified = path.stat().st_mtime
        compiled = Path(cache_from_source(str(path)))
        try:
            path.write_bytes(mutant.content)
            compiled.unlink(missing_ok=True)
            yield
        finally:
            path.write_bytes(mutant.original)
            os.utime(path, (modified, modified))
            compiled.unlink(missing_ok=True)

    @staticmethod
    def _pytest(tests: list[str], plugin: Any, *, stop: bool = True) -> str:
        """Return the names of the tests that failed, at most one if it stops there."""
        import pytest

        ignored = "ignore::pytest.PytestAssertRewriteWarning"  # plugins have been imported before
        options = [*(["-x"] if stop else []), "-q", "--override-ini=addopts=", "-p", "no:cacheprovider", "-W", ignored]
        code = pytest.main([*options, *tests], plugins=[plugin, sys.modules[type(plugin).__module__]])
        return "" if code == 0 else "\n".join(plugin.failed) or f"pytest's exit code {int(code)}"


def _seconds(recorded: dict[str, Any], names: Iterable[str]) -> float:
    return float(sum(recorded[name][0] for name in names))


def is_migration(module: str) -> bool:
    """Return whether each fork must migrate a database, instead of using the one that has been prepared."""
    return "/migrations/" in module


def tests_that_call(mutant: Mutant, recorded: dict[str, Any]) -> list[str]:
    return [
        name for name, (_, functions, _) in recorded.items()
        if any(function.split(".<locals>")[0] == mutant.function for function in functions)
    ]  # fmt: skip


@cache
def _mutants_of(module: str) -> list[Mutant]:
    return mutants_of(module, (ROOT / module).read_bytes())


def preload() -> None:
    from tests.support.forked_python import PRELOADED

    for name in (*PRELOADED, "django.test.client", "httpx"):
        import_module(name)
    for entry_point in metadata.entry_points(group="pytest11"):
        entry_point.load()


def forget_project() -> None:
    """Let forks import the project themselves. The worker has imported some of it to prepare the servers."""
    for name in [name for name in sys.modules if name.split(".")[0] in PROJECT]:
        del sys.modules[name]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    preload()
    prepared = PreparedServers()
    forget_project()
    worker = Worker(prepared)
    try:
        for line in sys.stdin:
            print(json.dumps(worker.run(json.loads(line))), file=answers, flush=True)
    finally:
        prepared.remove()


if __name__ == "__main__":
    main()
