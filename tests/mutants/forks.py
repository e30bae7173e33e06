"""Run a function in a fork of this process, with a time limit, and leave no process behind."""

import ctypes
import os
import select
import signal
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil


class Outcome(NamedTuple):
    status: str  # "survived", "killed", "timeout"
    by: str = ""  # the first test that failed


class ForkError(Exception):
    """The fork has crashed. The message has its exit code, and its traceback if there is one."""


class TookTooLong(Exception):
    pass


def run_in_fork(function: Callable[[], str], limit: float) -> str:
    """Return what `function` returns in a fork. Raise TookTooLong after `limit` seconds, or ForkError."""
    existing = set(psutil.Process().children(recursive=True))
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: adopt what the fork leaves behind, to kill it
    with tempfile.NamedTemporaryFile() as result:
        pid = os.fork()
        if not pid:
            _exit_with_result(function, Path(result.name))
        descriptor = os.pidfd_open(pid)
        has_exited, _, _ = select.select([descriptor], [], [], limit)
        os.close(descriptor)
        if not has_exited:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        _kill_all_but(existing)
        ctypes.CDLL(None).prctl(36, 0)
        text = Path(result.name).read_text()
    if not has_exited:
        raise TookTooLong
    if status:
        raise ForkError(f"{text}exit code {os.waitstatus_to_exitcode(status)}")
    return text


def outcome_of(function: Callable[[], str], limit: float) -> Outcome:
    """Return the outcome of tests. `function` returns the name of the first test that failed, "" if all passed."""
    try:
        failed = run_in_fork(function, limit)
    except TookTooLong:
        return Outcome("timeout")
    except ForkError as error:
        return Outcome("killed", str(error))
    return Outcome("killed", failed) if failed else Outcome("survived")


def _exit_with_result(function: Callable[[], str], file: Path) -> None:
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        file.write_text(function())
        status = 0
    except BaseException:
        file.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def _kill_all_but(existing: set[psutil.Process]) -> None:
    while remaining := set(psutil.Process().children(recursive=True)) - existing:
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in remaining:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)  # those of them that are this process's children by now
