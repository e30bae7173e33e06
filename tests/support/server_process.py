"""A server process of the tests: started, stopped, killed and frozen. It is killed when the test process exits."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import psutil

from tests.support.forked_python import die_with_parent
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.processes import has_ended
from voiceassist.embedded.programs import clean_environment

PORTS = range(20_000, 32_000)  # below the ports that Linux gives to clients, which could take one before its server
PORTS_OF_A_PROCESS = 500
START_TIMEOUT = 30.0 * SLOWNESS  # seconds
_reservations: list[socket.socket] = []  # open until the process exits


@cache
def _own_ports() -> Iterator[int]:
    """Reserve ports that no other test process on this machine uses, by binding the first of them until the exit."""
    for first in PORTS[::PORTS_OF_A_PROCESS]:
        reservation = socket.socket()
        try:
            reservation.bind(("127.0.0.1", first))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return cycle(range(first + 1, first + PORTS_OF_A_PROCESS))
    raise RuntimeError(f"No free range of ports. Other tests use all of {PORTS.start} to {PORTS.stop}; wait for them.")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens. It differs from the last few hundred that were returned."""
    for port in islice(_own_ports(), PORTS_OF_A_PROCESS):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("No free port. The tests have left too many servers running.")


def read_log(path: str | Path) -> str:
    """Return the whole lines of a log that processes are writing to.

    It is opened again, because a shared file also shares its position: the next line would be written where we read.
    """
    text = Path(path).read_text()
    return text[: text.rfind("\n") + 1]


class Server:
    """A server process with its children, in a separate folder. As a context manager, it starts and kills it."""

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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.kill()

    def start(self) -> None:
        """Wait until the server accepts connections. If it does not, or if the test is interrupted, kill it."""
        try:
            self._start()
        except BaseException:
            self.kill()
            raise

    def _start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
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
            self._process.wait(10 * SLOWNESS)
            assert succeeds_within(10, lambda: all(map(has_ended, processes)), interval=0.005), processes

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30 * SLOWNESS)
