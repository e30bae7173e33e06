"""Forked programs behave like started ones, and servers that do not start leave no process behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import voiceassist_server
from tests.support.dependency_servers import free_port
from tests.support.forked_python import ForkedPython, run
from tests.support.voiceassist_server import VoiceAssistServer

PROGRAMS = {
    "exit code": "raise SystemExit(7)",
    "message": "raise SystemExit('message')",
    "exception": "1 / 0",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "interrupted": "import os, time; os.kill(os.getpid(), 2); time.sleep(30)",
    "input": "print(input()[::-1])",
    "context": "import os, sys; print(os.environ['NAME'], 'HOME' in os.environ, os.getcwd(), sys.argv, sys.path[1])",
    "thread": "import threading; threading.Timer(0.1, print, ['ended']).start()",
    "at exit": "import atexit; atexit.register(print, 'ended')",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_result_as_a_start(name: str, tmp_path: Path) -> None:
    results = []
    for command in ([sys.executable], []):
        start = subprocess.Popen if command else ForkedPython
        process = start(
            [*command, "-c", PROGRAMS[name], "ärgument"],
            env={"NAME": "value", "PYTHONPATH": "/added"}, cwd=tmp_path,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stdout, stderr = process.communicate("text\n", timeout=30)
        results.append((process.returncode, stdout, stderr.splitlines()[-1:]))
    assert results[0] == results[1]
    assert results[0] != (0, "", [])


def test_program_is_a_child_that_signals_reach() -> None:
    with ForkedPython(["-c", "import os, time; print(os.getppid(), flush=True); time.sleep(60)"],
                      stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert int(process.stdout.readline()) == os.getpid()
        assert process.poll() is None
        process.terminate()
    assert process.returncode == -15


def test_nothing_of_the_project_is_imported_before_the_fork() -> None:
    program = (
        "import sys, threading; from django.conf import settings;"
        "names = {name.split('.')[0] for name in sys.modules} & {'core', 'health', 'voiceassist', 'prometheus_client'};"
        "print(settings.configured, names, threading.active_count())"
    )
    assert run(["-c", program]).stdout == "False set() 1\n"


def test_server_that_does_not_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voiceassist_server, "START_TIMEOUT", 0.5)
    server = VoiceAssistServer(BIND=f"127.0.0.1:{free_port()}")  # not the port that is waited for
    with pytest.raises(AssertionError), server:
        pass
    assert server.process.returncode is not None
    assert not server.folder.exists()
