"""Run the tests of mutants in a copy of the project. `tests.mutants` starts it there, and sends it jobs as JSON lines.

The worker has imported libraries, but nothing of the project, and has prepared the data of the servers with a migrated
database. Each fork starts its own servers from a copy of this data, so that no mutant disturbs the next one.

                     fork for a job                     fork for each mutant in a function
    worker ────────> imports the project, collects ────> gets the mutated function, runs tests that call it
       └───────────> for other mutants, and for those that survived: writes the file, runs all tests of the module
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.mutants.forks import Outcome, outcome_of, run_in_fork
from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.patching import is_in_function

if TYPE_CHECKING:
    from tests.support.plugin import Servers

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("core", "health", "voiceassist", "tests")
MAX_JOB_SECONDS = 7200


class Worker:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        self._temporary, self._data, self._prepared = (self.folder / name for name in ("tmp", "servers", "prepared"))
        self._temporary.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(self._temporary)
        self._servers = self._prepare_servers()

    def _prepare_servers(self) -> "Servers":
        from tests.support.dependency_servers import unprivileged_command
        from tests.support.plugin import Servers, remove_project_variables
        from voiceassist.embedded.programs import clean_environment, postgres_program

        remove_project_variables()
        servers = Servers()
        os.environ |= servers.variables
        servers.postgres.start()
        servers.postgres.execute("CREATE DATABASE test_tests")
        url = servers.postgres.url.replace("/tests", "/test_tests")
        command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
        subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, check=True)
        servers.postgres.stop()
        data = servers.postgres.data
        # Small files of the write-ahead log are faster to copy.
        reset = [postgres_program("pg_resetwal"), "--wal-segsize=1", "-D", str(data)]
        subprocess.run([*unprivileged_command(data), *reset], check=True, capture_output=True, env=clean_environment())
        shutil.move(servers.folder, self._prepared)
        self._data = servers.folder
        return servers

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        module, tests = job["module"], job["tests"]
        migrate = "/migrations/" in module
        if "names" not in job:
            return self._run_clean(module, tests, migrate)
        mutants = [mutant for mutant in _mutants_of(module) if mutant.name in job["names"]]
        outcomes: dict[str, Outcome] = {}
        in_functions = [mutant for mutant in mutants if mutant.function and is_in_function(mutant)]
        if in_functions and not migrate:
            outcomes |= self._run_in_functions(in_functions, tests, job["calls"])
        seconds = sum(duration for duration, _ in job["calls"].values())
        for mutant in mutants:
            if outcomes.get(mutant.name, ("survived",))[0] == "survived":
                outcomes[mutant.name] = self._run_all(mutant, tests, job["calls"], migrate, seconds)
        return {"outcomes": outcomes}

    def _run_clean(self, module: str, tests: list[str], migrate: bool) -> dict[str, Any]:
        def record() -> str:
            from tests.mutants.session import Recording

            recording = Recording(self._servers, ROOT / module, migrate=migrate)
            failed = self._pytest(tests, recording)
            return json.dumps({"failed": failed, "calls": recording.calls})

        self._restore()
        return dict(json.loads(run_in_fork(record, MAX_JOB_SECONDS)))

    def _run_in_functions(self, mutants: list[Mutant], tests: list[str], calls: Any) -> dict[str, Outcome]:
        def collect() -> str:
            from tests.mutants.session import Forks

            forks = Forks(
                self._servers, mutants, ROOT / mutants[0].module, self._run_mutant, migrate=False, calls=calls
            )
            failed = self._pytest(tests, forks)
            return json.dumps({"failed": failed, "outcomes": forks.outcomes})

        self._restore()
        done = json.loads(run_in_fork(collect, MAX_JOB_SECONDS))
        if done["failed"]:
            raise RuntimeError(f"The tests can't be collected: {done['failed']}")
        return {name: Outcome(*outcome) for name, outcome in done["outcomes"].items()}

    def _run_all(self, mutant: Mutant, tests: list[str], calls: Any, migrate: bool, seconds: float) -> Outcome:
        def test() -> str:
            from tests.mutants.session import Session

            return self._pytest(tests, Session(self._servers, migrate=migrate, calls=calls))

        return self._run_mutant(mutant, seconds + 5, test)

    def _run_mutant(self, mutant: Mutant, seconds: float, test: Any) -> Outcome:
        """Write the mutant and run its tests in a fork. They usually take `seconds`."""
        self._restore()
        with self._written_mutant(mutant):
            return outcome_of(test, 20 + 5 * seconds)

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

    def _restore(self) -> None:
        for folder in (self._data, self._temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self._temporary.mkdir()
        subprocess.run(["cp", "-a", self._prepared, self._data], check=True)

    @staticmethod
    def _pytest(tests: list[str], plugin: Any) -> str:
        """Return the name of the first test that failed."""
        import pytest

        ignored = "ignore::pytest.PytestAssertRewriteWarning"  # plugins have been imported before
        options = ["-x", "-q", "--override-ini=addopts=", "-p", "no:cacheprovider", "-W", ignored]
        code = pytest.main([*options, *tests], plugins=[plugin, sys.modules[type(plugin).__module__]])
        return "" if code == 0 else plugin.failed or f"pytest's exit code {int(code)}"


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
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    preload()
    worker = Worker()
    forget_project()
    try:
        for line in sys.stdin:
            print(json.dumps(worker.run(json.loads(line))), file=answers, flush=True)
    finally:
        shutil.rmtree(worker.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
