"""The stacks of a worker that hangs or crashes are in the log, without values, whatever it hangs in."""

import http.client
import signal
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.health.multiprocess.hanging_urls import CANARY, HANGS
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer

SETTINGS: dict[str, Any] = {
    "DJANGO_SETTINGS_MODULE": "tests.health.multiprocess.hanging_settings",
    "WEB_CONCURRENCY": "1",
}
VIEWS_FILE = "tests/health/multiprocess/hanging_urls.py"


def hang(app: VoiceAssistServer, kind: str) -> None:
    """Send a request that hangs, and wait until its view has begun to."""
    before = app.log_messages().count(HANGS)
    with suppress(OSError, http.client.HTTPException):
        app.get(f"/hang/{kind}/{CANARY}/?q={CANARY}", headers={"Cookie": f"name={CANARY}"}, timeout=0.5)
    assert succeeds_within(20, lambda: app.log_messages().count(HANGS) > before)


def stacks(app: VoiceAssistServer) -> list[dict[str, Any]]:
    lines = app.log_lines()
    return [line for line in lines if line["message"] == "a worker hung or crashed"]


def is_replaced(app: VoiceAssistServer, worker: psutil.Process) -> bool:
    return len(app.workers()) == 1 and app.workers() != [worker]


def assert_hung_in(app: VoiceAssistServer, worker: psutil.Process, *functions: str, cause: str = "aborted") -> None:
    """Assert that one stack ends in these functions of our views, and that no line contains a value."""
    found = stacks(app)
    assert {line["pid"] for line in found} == {worker.pid}
    assert {(line["level"], line["cause"]) for line in found} == {("error", cause)}
    ends = [[frame for frame in line["frames"] if VIEWS_FILE in frame] for line in found]
    names = [[frame.rpartition(" ")[2] for frame in frames] for frames in ends]
    assert list(functions) in names, found
    assert any("/concurrent/futures/thread.py:" in frame for line in found for frame in line["frames"])
    assert sum(line["threads"] for line in found) >= 4 + 3 + 2  # the threads of requests, probes and static files
    assert CANARY not in app.log()


@pytest.mark.parametrize(
    ("kind", "functions"),
    [("c", ["hang_in_c_code"]), ("main", ["_wait_for_lock"]), ("main", ["hang_in_main_thread", "hang_in_request"])],
)
def test_worker_that_gunicorn_kills(kind: str, functions: list[str]) -> None:
    with VoiceAssistServer("--timeout", "3", **SETTINGS) as app:
        (worker,) = app.workers()
        hang(app, kind)
        assert succeeds_within(30, lambda: is_replaced(app, worker) and stacks(app))
        assert_hung_in(app, worker, *functions)
        (folder,) = app.runtime_folders()
        assert not (folder / f"stacks_{worker.pid}").exists()
        assert succeeds_within(10, lambda: app.get("/health")[0] == 200)


def test_operator_gets_the_stacks_of_hung_requests() -> None:
    """The main loop still responds, so gunicorn does not notice. The exit does not wait for the hung threads."""
    with VoiceAssistServer(**SETTINGS) as app:
        (worker,) = app.workers()
        for _ in range(2):
            hang(app, "request")
        worker.send_signal(signal.SIGABRT)
        assert succeeds_within(15, lambda: is_replaced(app, worker) and stacks(app))
        assert_hung_in(app, worker, "hang_in_request")
        (line,) = [line for line in stacks(app) if any("hang_in_request" in frame for frame in line["frames"])]
        assert line["threads"] == 2


def test_worker_that_crashes() -> None:
    with VoiceAssistServer(**SETTINGS) as app:
        (worker,) = app.workers()
        hang(app, "request")
        worker.send_signal(signal.SIGSEGV)
        assert succeeds_within(15, lambda: is_replaced(app, worker) and stacks(app))
        assert_hung_in(app, worker, "hang_in_request", cause="segmentation fault")


def test_stopped_worker_leaves_no_stack_and_the_log_says_so() -> None:
    with VoiceAssistServer("--timeout", "3", **SETTINGS) as app:
        (worker,) = app.workers()
        worker.send_signal(signal.SIGSTOP)
        assert succeeds_within(30, lambda: is_replaced(app, worker) and "left no stack" in app.log())
        assert stacks(app) == []


def test_worker_that_ends_otherwise_logs_no_stack() -> None:
    with VoiceAssistServer(DRAIN_SECONDS="0", **SETTINGS) as app:
        app.workers()[0].kill()
        assert succeeds_within(10, lambda: len(app.workers()) == 1)
        app.terminate()
        assert app.process.wait(20) == 0
        assert "stack" not in app.log()
