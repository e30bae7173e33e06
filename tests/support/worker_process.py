"""A worker for background jobs, run as production runs it: `manage.py worker` in its own process."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any, Self

import psutil

from tests.support.forked_python import ROOT, ForkedPython, die_with_parent
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.server_process import read_log


class WorkerProcess:
    """A context manager that runs a worker, which serves /health and /metrics on `port` unless it is 0.

    `options` are those of the command. `environment` is added to that of the tests. Unless `wait` is False, jobs can
    run when the block begins. `python` is the program to start, by default a fork (`tests.support.forked_python`).
    """

    def __init__(
        self,
        *options: str,
        program: Sequence[str] = ("manage.py", "worker"),
        python: str | None = None,
        port: int = 0,
        wait: bool = True,
        **environment: str,
    ) -> None:
        self.port = port
        bind = ["--bind", f"127.0.0.1:{port}"] if port else []
        self._command = [*program, *bind, *options]
        inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}  # pytest's
        self._environment = {**inherited, "LOG_FORMAT": "json", **environment}
        self._python, self._wait = python, wait
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        self.process: subprocess.Popen[Any]  # set by `start`

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start the worker, also after `stop`. The log continues."""
        starts = self.log().count("worker started")
        options: dict[str, Any] = {"cwd": ROOT, "env": self._environment, "preexec_fn": die_with_parent}
        options |= {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": subprocess.STDOUT}
        if self._python is None:
            self.process = ForkedPython(self._command, **options)
        else:
            self.process = subprocess.Popen([self._python, *self._command], **options)
        if self._wait and not self.logs("worker started", times=starts + 1, within=60):
            raise RuntimeError(f"The worker did not start: {self.log()[-2000:]}")

    def __exit__(self, *args: object) -> None:
        if hasattr(self, "process"):
            self.kill()
        self._log.close()

    def log(self) -> str:
        return read_log(self._log.name)

    def events(self, message: str) -> list[dict[str, Any]]:
        """Return the log lines with this message."""
        lines: Iterable[dict[str, Any]] = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if message in line["message"]]

    def logs(self, message: str, *, times: int = 1, within: float = 40) -> bool:
        """Return whether the message is logged at least `times` times within the limit, or before the process exits."""
        succeeds_within(within, lambda: self.log().count(message) >= times or self.process.poll() is not None)
        return self.log().count(message) >= times

    def get(self, path: str, *, token: str = "") -> tuple[int, str]:
        """Return the status, 0 if there is no response, and the body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10 * SLOWNESS)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        process = psutil.Process(self.process.pid)
        assert succeeds_within(10, lambda: process.status() == psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, *, within: float = 60) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        started_at = time.monotonic()
        code = self.process.wait(within * SLOWNESS)
        self.stopped_after = time.monotonic() - started_at
        return code
