"""A server process of the tests: started, stopped, killed and frozen. It is killed when the test process exits."""

import ctypes
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from voiceassist.embedded.programs import clean_environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Server:
    """A server process with its children, in a separate folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def launch(self) -> None:
        """Start the process without waiting until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(),
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def start(self) -> None:
        deadline = time.monotonic() + 30
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                # Starting fails while the children of a killed server still hold its shared memory, so try again.
                self.launch()
            if time.monotonic() > deadline:
                raise RuntimeError(f"The server did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _all(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        for process in self._all():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            processes = self._all()
            self._signal(signal.SIGKILL)
            self._process.wait(10)
            deadline = time.monotonic() + 10
            while not all(map(_has_exited, processes)) and time.monotonic() < deadline:
                time.sleep(0.005)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)


def _has_exited(process: psutil.Process) -> bool:
    """Return whether the process has exited. A zombie counts, because its parent or init may reap it seconds later."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
