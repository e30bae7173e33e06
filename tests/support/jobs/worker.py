"""`manage.py worker` in its own process, with short times. The first argument is a JSON object of constants to change.

{"core.jobs.queue._SEND_AGAIN": 1}      sets a number, or a timedelta in seconds if the constant is one
{"tests.support.jobs.tasks.not_yet": null}   removes an attribute, as an older release lacks it
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from tests.support.forked_python import die_with_parent
from tests.support.polling import succeeds_within

ROOT = Path(__file__).resolve().parents[3]
SCHEDULE = {"core.jobs.schedule.SCHEDULE": "unchanged"}  # runs scheduled jobs too
FAST = {
    "core.jobs.schedule.SCHEDULE": [],
    "core.jobs.worker._INTERVAL": 0.2,
    "core.jobs.progress.LEASE": 3,
    "core.jobs.execution.LEASE": 3,
    "core.jobs.execution._RETRY_DELAY": 0.1,
    "core.jobs.queue._SEND_AGAIN": 2,
}


def _prepare() -> None:
    """End with the tests. Accept SIGHUP, which `nohup` ignores for all its children."""
    die_with_parent()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Worker:
    """A context manager that runs a worker process. `constants` are added to `FAST`."""

    def __init__(self, *options: str, constants: dict[str, Any] | None = None, wait: bool = True, **environment: str):
        self._command = [
            sys.executable,
            "-m",
            "tests.support.jobs.worker",
            json.dumps(FAST | (constants or {})),
            *options,
        ]
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.support.jobs.settings",
            "LOG_FORMAT": "json",
            "dramatiq_restart_delay": "100",  # milliseconds
            **environment,
        }
        self._wait = wait
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__

    def __enter__(self) -> "Worker":
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, preexec_fn=_prepare,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        if self._wait and not self.logs("worker started", within=60):
            log = self.log()
            self.__exit__()
            raise RuntimeError(f"The worker did not start: {log[-2000:]}")
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._log.close()

    def log(self) -> str:
        # Not the descriptor of the process, which has the same position.
        return Path(f"/proc/{os.getpid()}/fd/{self._log.fileno()}").read_text()

    def events(self, message: str) -> list[dict[str, Any]]:
        """Return the log lines with this message."""
        lines: Iterable[dict[str, Any]] = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if message in line["message"]]

    def logs(self, message: str, *, within: float = 40) -> bool:
        return succeeds_within(within, lambda: message in self.log() or self.process.poll() is not None) and (
            message in self.log()
        )

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        process = psutil.Process(self.process.pid)
        assert succeeds_within(10, lambda: process.status() == psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, *, within: float = 45) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        started_at = time.monotonic()
        code = self.process.wait(within)
        self.stopped_after = time.monotonic() - started_at
        return code


def _change(path: str, value: Any) -> None:
    from core.jobs.schedule import Entry

    module_name, _, name = path.rpartition(".")
    module = import_module(module_name)
    if value is None:
        delattr(module, name)
        return
    if value == "unchanged":
        return
    if isinstance(value, list):
        value = tuple(Entry(task, timedelta(seconds=seconds)) for task, seconds in value)
    is_duration = isinstance(getattr(module, name), timedelta)
    setattr(module, name, timedelta(seconds=value) if is_duration else value)


def main() -> None:
    import django
    from django.core.management import execute_from_command_line

    django.setup()
    for path, value in json.loads(sys.argv[1]).items():
        _change(path, value)
    execute_from_command_line(["manage.py", "worker", *sys.argv[2:]])


if __name__ == "__main__":
    main()
