"""Finds the processes that tests have left running, which would use the processor and the ports of later runs."""

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.support import forked_python
from tests.support.polling import succeeds_within

MARK = "TESTS_PROCESS"  # in the environment of all processes that the tests start: the id of the test process


def started_processes(but: Set[int] = frozenset()) -> dict[int, psutil.Process]:
    """Return the processes that this process and its children have started and that still run.

    Those in `but` and their children are left out. A process whose parent has exited is no descendant any more, so it
    is found by the environment that it inherited.
    """
    found = [child for child in psutil.Process().children() if child.pid not in but]
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # of another user, or has exited
            if process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid()):
                found.append(process)
    for process in list(found):
        with suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return {process.pid: process for process in found if process.pid not in but and not has_ended(process)}


def has_ended(process: psutil.Process | int) -> bool:
    """Return whether a process, or the one with this id, has ended.

    A zombie has ended. Nobody waits for a child of a killed process until init reaps it seconds later.
    """
    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def no_process_left(seconds: float = 10) -> Iterator[None]:
    """Fail if processes that the block has started don't exit within some seconds of its end. Kill them."""
    os.environ[MARK] = str(os.getpid())
    expected = set(started_processes())
    yield

    def left() -> dict[int, psutil.Process]:
        return started_processes(but=expected | {process.pid for process in forked_python.forking_processes})

    if not succeeds_within(seconds, lambda: not left()):
        lines = []
        for pid, process in left().items():
            with suppress(psutil.NoSuchProcess):
                lines.append(f"{pid} {' '.join(process.cmdline())}")
                process.kill()
        pytest.fail("Tests have left processes running. End them where they are started:\n" + "\n".join(lines))


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left(servers: object) -> Iterator[None]:
    """Fail the run if processes are left after the last test and the end of all other fixtures."""
    with no_process_left():
        yield
