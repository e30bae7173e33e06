"""A development server as a process: started once for all commands of a checkout, probed and stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TextIO

from voiceassist.embedded.programs import EmbeddedServerError, clean_environment

START_TIMEOUT = 60  # seconds to start or stop; after a crash a server replays its log first
MIN_FREE_SPACE = 100 * 1024**2  # bytes; a new PostgreSQL takes about 60 MiB, and a full disk keeps no log
MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103
POSTGRES_SOCKET = ".s.PGSQL.5432"  # the longest name of a socket


class Server:
    """A server that listens on a socket file. Subclasses define its data, its command and its probe.

    The server and its children inherit a locked file. The kernel releases the lock when the last of them has ended,
    which is the only reliable sign: a pid may have been reused, a child may outlive its killed parent and continue to
    write, and a socket file may have been removed.
    """

    name: str
    socket_name: str
    pid_name: str

    def __init__(self, var: Path) -> None:
        self.var, self.data, self.log = var, var / self.name, var / f"{self.name}.log"
        self.folder = socket_folder(var)
        self.socket = self.folder / self.socket_name
        self.pid_file = self.data / self.pid_name  # written by the server

    def prepare(self, lock: TextIO) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_responding(self, connection: socket.socket) -> bool:
        raise NotImplementedError

    def is_prepared(self) -> bool:
        """Return whether the server has everything that `finish` adds to it."""
        return True

    def finish(self) -> None:
        """Add to a server that is ready what it lacks."""

    def is_ready(self) -> bool:
        """Return whether the server accepts connections. True for a hung one, because a second would not help."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket))
                return self.is_responding(connection)
            except TimeoutError:
                return True
            except OSError:
                return False

    def start(self) -> None:
        """Start the server and wait until it is ready. The caller holds the lock of the folder.

        Raises EmbeddedServerError if the server ends or is not ready within START_TIMEOUT.
        """
        deadline = time.monotonic() + START_TIMEOUT
        process = None
        while not self.is_ready():
            if process is not None and process.poll() is not None:
                raise EmbeddedServerError(f"{self.name} failed to start. {self._reason()}")
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} was not ready within {START_TIMEOUT} s. The reason may be in {self.log}. "
                    "Run `make stop`, then try again."
                )
            if process is None and (lock := self.lock()):
                with lock:
                    process = self._launch(lock)
            time.sleep(0.02)
        if process is not None:
            process.returncode = 0  # it outlives this process, so Popen must not warn that it still runs
        if not self.is_prepared():
            self.finish()

    def _reason(self) -> str:
        free = shutil.disk_usage(self.var).free
        if free < MIN_FREE_SPACE:
            return f"{self.var} has only {free // 1024**2} MiB of free space. Free some, then try again."
        return f"The reason is in {self.log}"

    def lock(self) -> TextIO | None:
        """Acquire and return the server's lock, or return None while any process of the server runs."""
        lock = (self.var / f"{self.name}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            lock.close()
            return None

    def _launch(self, lock: TextIO) -> subprocess.Popen[bytes]:
        self.prepare(lock)
        # Stale files of a dead server. PostgreSQL refuses to start if one of them names a live process, even an
        # unrelated one.
        for stale_file in (self.pid_file, self.socket, self.folder / f"{self.socket_name}.lock"):
            stale_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # With a new session and no inherited file except the lock, the server survives the command and its
            # terminal, and does not hold the command's pipes open.
            return subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.var, umask=0o077,
                env=clean_environment(), start_new_session=True, pass_fds=[lock.fileno()],
            )  # fmt: skip

    def stop(self) -> bool:
        """Shut the server down and return whether it was running. Raises EmbeddedServerError after START_TIMEOUT."""
        deadline = time.monotonic() + START_TIMEOUT
        is_signalled = was_running = False
        while (lock := self.lock()) is None:
            was_running = True
            with contextlib.suppress(OSError, ValueError, IndexError):  # no pid file yet, or no such process
                pid = int(self.pid_file.read_text().split()[0])
                if not is_signalled:
                    os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown, Valkey's graceful one
                    os.kill(pid, signal.SIGCONT)  # a stopped process does not handle signals
                is_signalled = True
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"{self.name} failed to stop. The reason may be in {self.log}")
            time.sleep(0.02)
        lock.close()
        return was_running


def socket_folder(var: Path) -> Path:
    """Return `var/run`, or a folder under /tmp if that path is too long for a socket or contains a comma.

    libpq splits a host at commas.
    """
    folder = var / "run"
    if len(os.fsencode(folder / POSTGRES_SOCKET)) <= MAX_SOCKET_PATH and "," not in str(folder):
        return folder
    name = hashlib.sha256(os.fsencode(var)).hexdigest()[:16]
    return Path("/tmp") / f"voiceassist-{os.geteuid()}-{name}"  # not TMPDIR, which may differ between commands
