"""Start workers and give them jobs: first a clean run of each module's tests, then its mutants in small portions."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Any

from tests.mutants.forks import Outcome
from tests.mutants.mutations import Mutant

Job = dict[str, Any]
Answer = dict[str, Any]
PORTION = 20  # mutants of one job; a job imports the project and collects the tests once


class WorkerError(Exception):
    pass


class WorkerProcess:
    def __init__(self, copy: Path) -> None:
        with copy.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "tests.mutants.worker"], cwd=copy, stderr=log,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        self._log = copy.with_suffix(".log")

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise WorkerError(f"A worker has exited:\n{self._output()}")
        return {**json.loads(answer), "output": self._output()}

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def interrupt(self) -> None:
        self._process.terminate()

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


def run(
    copies: list[Path],
    mutants: list[Mutant],
    tests: dict[str, list[str]],
    is_done: Callable[[dict[str, Outcome]], None],
) -> dict[str, Outcome]:
    """Return the outcome of each mutant by its name. Call `is_done` with those that are new."""
    names: dict[str, list[str]] = defaultdict(list)
    for mutant in mutants:
        names[mutant.module].append(mutant.name)
    free: Queue[WorkerProcess] = Queue()
    workers = [WorkerProcess(copy) for copy in copies]
    for worker in workers:
        free.put(worker)

    def perform(job: Job) -> Answer:
        worker = free.get()
        try:
            return worker.run(job)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            clean = pool.map(lambda module: _clean(perform, module, tests[module]), names)
            results = dict(zip(names, clean, strict=True))
            jobs = [
                {"module": module, "tests": tests[module], "names": listed[start : start + PORTION],
                 "clean": results[module]}
                for module, listed in names.items() for start in range(0, len(listed), PORTION)
            ]  # fmt: skip
            outcomes: dict[str, Outcome] = {}
            for done in as_completed([pool.submit(perform, job) for job in jobs]):
                found = {name: Outcome(*outcome) for name, outcome in done.result()["outcomes"].items()}
                outcomes |= found
                is_done(found)
                print(f"{len(outcomes)} of {len(mutants)}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.interrupt()
            raise
        finally:
            for worker in workers:
                worker.stop()
    return outcomes


def _clean(perform: Callable[[Job], Answer], module: str, tests: list[str]) -> Answer:
    answer = perform({"module": module, "tests": tests})
    if answer["failed"]:
        raise WorkerError(f"{module}: a test fails without any mutant: {answer['failed']}\n{answer['output']}")
    return answer
