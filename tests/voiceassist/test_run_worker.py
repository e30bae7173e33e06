"""The worker of `make run` stops with the server however that ends, and its own end is reported."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.polling import succeeds_within
from tests.support.processes import has_ended
from tests.support.voiceassist_server import ROOT

# Instead of gunicorn, a program that does nothing replaces the process that started the worker.
SERVER = """if True:
    import os, sys
    from voiceassist import run_worker
    run_worker.start()
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(120)"])
"""


class Run:
    """A server with its worker, in a process group of their own."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "output"
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        with self._output.open("w") as output:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes: list[psutil.Process] = []

    def wait_until_started(self) -> None:
        assert succeeds_within(60, lambda: "worker started" in self.output()), self.output()
        self.processes = self.children()
        assert len(self.processes) == 2, self.processes  # run_worker and the worker
        self.worker = self.processes[-1]

    def children(self) -> list[psutil.Process]:
        if self.server.poll() is not None:
            return []
        return psutil.Process(self.server.pid).children(recursive=True)

    def output(self) -> str:
        return self._output.read_text()

    def ends(self) -> bool:
        return succeeds_within(40, lambda: all(map(has_ended, self.processes)))

    def kill(self) -> None:
        for process in {*self.processes, *self.children()}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.kill()
        self.server.wait(10)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    try:
        run.wait_until_started()
        yield run
    finally:
        run.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_worker_stops_with_the_server(run: Run, number: signal.Signals) -> None:
    run.server.send_signal(number)
    run.server.wait(10)
    assert run.ends()
    assert "worker stopped" in run.output()  # in good order, so that its jobs are queued again
    assert "unexpectedly" not in run.output()


def test_lines_have_a_prefix(run: Run) -> None:
    assert all(line.startswith("worker | ") for line in run.output().splitlines()), run.output()


def test_ctrl_c_stops_both_and_loses_no_line(run: Run) -> None:
    os.killpg(run.server.pid, signal.SIGINT)
    run.server.wait(10)
    assert run.ends()
    assert "worker stopped" in run.output()


def test_hung_worker_is_killed(run: Run) -> None:
    run.worker.suspend()
    run.server.kill()
    assert run.ends()


def test_end_of_the_worker_is_reported_and_the_server_continues(run: Run) -> None:
    run.worker.kill()
    assert run.ends()
    assert "worker | ended unexpectedly (-9). The server continues without background jobs." in run.output()
    assert run.server.poll() is None
