"""Tests leave no process running, also if a process does not start as expected."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psutil
import pytest
from selenium.common.exceptions import WebDriverException

from tests.support import browser, server_process, voiceassist_server
from tests.support.dependency_servers import Valkey
from tests.support.forked_python import ROOT, ForkedPython
from tests.support.polling import succeeds_within
from tests.support.processes import has_ended, no_process_left, started_processes
from tests.support.voiceassist_server import VoiceAssistServer
from tests.support.worker_process import WorkerProcess


def command_lines() -> list[str]:
    """Return the command lines of all processes that the tests have started."""
    lines = []
    for process in started_processes().values():
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return lines


@pytest.mark.parametrize("command", ["exec sleep 4711", "sleep 4711 &"])
def test_processes_that_are_left_fail_the_run_and_are_killed(command: str) -> None:
    """The second one is no descendant, because its parent has exited."""
    started = []
    with pytest.raises(pytest.fail.Exception, match=r"\n\d+ sleep 4711$"), no_process_left(0):  # noqa: PT012
        started.append(subprocess.Popen(["sh", "-c", command]))
        if command.endswith("&"):
            started[0].wait()
        assert succeeds_within(10, lambda: "sleep 4711" in command_lines())
    started[0].wait(10)
    with no_process_left():
        pass


def start_valkey(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    monkeypatch.setattr(server_process, "START_TIMEOUT", 0.2)
    monkeypatch.setattr(Valkey, "is_ready", lambda self: False)
    return Valkey(folder)


def start_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    monkeypatch.setattr(voiceassist_server, "START_TIMEOUT", 0.0)
    return VoiceAssistServer()


def start_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    monkeypatch.setattr(WorkerProcess, "logs", lambda *_, **__: False)
    return WorkerProcess()


def start_chromium(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    monkeypatch.setattr(browser, "CHROMIUM", "/bin/true")
    return browser.start_browser(folder)


@pytest.mark.parametrize(
    "context", [start_valkey, start_server, start_worker, pytest.param(start_chromium, marks=browser.needs_chromium)]
)
def test_failed_start_leaves_no_process(
    context: Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting = context(tmp_path, monkeypatch)
    with no_process_left(), pytest.raises((RuntimeError, AssertionError, WebDriverException)), starting:
        pytest.fail("It must not start.")


PROGRAM = """if True:
    import sys, time
    from contextlib import suppress
    from pathlib import Path
    import psutil
    from tests.support.browser import start_browser
    from tests.support.dependency_servers import Postgres, Valkey
    from tests.support.worker_process import WorkerProcess
    folder = Path(sys.argv[1])
    servers = [Valkey(folder / "redis"), Postgres(folder / "postgres"), WorkerProcess(wait=False)]
    contexts = [*servers, start_browser(folder)]
    for context in contexts:
        context.__enter__()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            print(f"{process.pid}:{process.name()}", end=" ")
    print(flush=True)
    time.sleep(60)
"""


@browser.needs_chromium
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can send a signal when the parent exits")
def test_nothing_survives_a_killed_test_process(tmp_path: Path) -> None:
    with ForkedPython(["-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        try:
            assert tests.stdout
            started = dict(word.split(":") for word in tests.stdout.readline().split())
        finally:
            tests.kill()
    assert {"valkey-server", "postgres", "chromedriver", "chromium"} <= set(started.values())

    def left() -> list[str]:
        return [name for pid, name in started.items() if not has_ended(int(pid))]

    assert succeeds_within(20, lambda: not left()), left()
