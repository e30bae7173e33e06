"""Run a function in a forked process. The process always ends there, so an exception starts no second run of pytest."""

import os
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn, Self


class Fork:
    """A context manager that runs the function in a forked process, and kills it if it still runs after the block."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._exit_code: int | None = None
        self.pid = 0

    def __enter__(self) -> Self:
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_exit(self._function)
        return self

    def __exit__(self, *args: object) -> None:
        if self._exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Return the exit code: 0, 1 after an exception, or the negative number of the signal that killed it."""
        if self._exit_code is None:
            self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._exit_code


def exit_code_in_fork(function: Callable[[], object]) -> int:
    """Return the exit code of a forked process that runs the function: 0, or 1 after an exception, which it prints."""
    with Fork(function) as fork:
        return fork.wait()


def _run_and_exit(function: Callable[[], object]) -> NoReturn:
    exit_code = 1
    try:
        function()
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)
