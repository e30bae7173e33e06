"""How two workers share connections that clients keep open."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer

CONNECTIONS = 40


@pytest.fixture
def app() -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(WEB_CONCURRENCY="2", WEB_THREADS="1") as app:
        # Each worker writes this file just before it accepts connections.
        assert succeeds_within(10, lambda: len(states(app)) == 2)
        yield app


def states(app: VoiceAssistServer) -> list[Path]:
    return [path for folder in app.runtime_folders() for path in folder.glob("state_*.json")]


def count_connections(app: VoiceAssistServer, worker: psutil.Process) -> int:
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in app.connections(worker))


def connect(app: VoiceAssistServer, stack: ExitStack) -> None:
    for _ in range(CONNECTIONS):
        stack.enter_context(socket.create_connection(("127.0.0.1", app.port)))
        time.sleep(0.01)


def test_worker_with_fewer_connections_gets_the_next_ones(app: VoiceAssistServer) -> None:
    first, second = app.workers()
    with ExitStack() as stack:
        second.send_signal(signal.SIGSTOP)
        connect(app, stack)
        # A worker that hangs holds nobody up.
        assert succeeds_within(10, lambda: count_connections(app, first) >= CONNECTIONS)
        second.send_signal(signal.SIGCONT)
        connect(app, stack)
        # By chance it would get half of them. On a busy machine it may be too late for a few.
        assert succeeds_within(10, lambda: count_connections(app, second) > CONNECTIONS * 0.75)
