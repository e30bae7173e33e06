"""The two servers: how each is prepared, started, asked and stopped."""

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

from voiceassist.embedded import programs
from voiceassist.embedded.programs import EmbeddedServerError, as_user_of, clean_environment

DATABASE = "voiceassist"
_SECONDS = 60  # for a server to be up: after a crash it replays its log first
_LONGEST_PATH = 100  # bytes of a socket's path; Linux allows 107, macOS 103


class Server:
    """A server on a socket file. Its kinds say how it is prepared, started and asked.

    It inherits a locked file, and so do its children: the kernel frees the lock when the last of them is gone. Nothing
    else tells that for sure. A pid may be another's by now or a zombie's, a child may outlive its killed parent and go
    on writing, the clock may have been set, a socket file may have been removed.
    """

    name: str
    socket_name: str
    pid_name: str

    def __init__(self, var: Path) -> None:
        self.var, self.data, self.log = var, var / self.name, var / f"{self.name}.log"
        self.folder = socket_folder(var)
        self.socket = self.folder / self.socket_name
        self.pid_file = self.data / self.pid_name  # the server's own

    def prepare(self, lock: TextIO) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def serves(self, connection: socket.socket) -> bool:
        raise NotImplementedError

    def ready(self) -> bool:
        """Says whether it serves. A frozen one does: a second one on its data would not make it better."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket))
                return self.serves(connection)
            except TimeoutError:
                return True
            except OSError:
                return False

    def start(self) -> None:
        """Raises EmbeddedServerError if it doesn't serve in time. The caller lets one process at a time in here."""
        end = time.monotonic() + _SECONDS
        process = None
        while not self.ready():
            if process is not None and process.poll() is not None:
                raise EmbeddedServerError(f"{self.name} does not start: see {self.log}")
            if time.monotonic() > end:
                raise EmbeddedServerError(f"{self.name} is not ready in {_SECONDS} s: see {self.log}, or `make stop`")
            if process is None and (lock := self.lock()):
                with lock:
                    process = self._launch(lock)
            time.sleep(0.02)
        if process is not None:
            process.returncode = 0  # nobody waits for it: it is to outlive us

    def lock(self) -> TextIO | None:
        """Returns the server's lock, taken; None while a process of the server lives."""
        lock = (self.var / f"{self.name}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            lock.close()
            return None

    def _launch(self, lock: TextIO) -> subprocess.Popen[bytes]:
        self.prepare(lock)
        # None of these means anything now. PostgreSQL would believe them if another process has that pid by now.
        for left in (self.pid_file, self.socket, self.folder / f"{self.socket_name}.lock"):
            left.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # A session of its own, no file of ours but the lock: it survives the command, its terminal and its pipes.
            return subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.var, umask=0o077,
                env=clean_environment(), start_new_session=True, pass_fds=[lock.fileno()],
            )  # fmt: skip

    def stop(self) -> bool:
        """Ends it as its own tools do. Returns whether it was running. Raises EmbeddedServerError if it doesn't end."""
        end = time.monotonic() + _SECONDS
        asked = was_running = False
        while (lock := self.lock()) is None:
            was_running = True
            with contextlib.suppress(OSError, ValueError, IndexError):  # there is no pid yet, or no process any more
                pid = int(self.pid_file.read_text().split()[0])
                if not asked:
                    os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown, Valkey's orderly one
                    os.kill(pid, signal.SIGCONT)  # if it was frozen
                asked = True
            if time.monotonic() > end:
                raise EmbeddedServerError(f"{self.name} does not stop: see {self.log}")
            time.sleep(0.02)
        lock.close()
        return was_running


class Postgres(Server):
    name = "postgres"
    socket_name = ".s.PGSQL.5432"
    pid_name = "postmaster.pid"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(self.folder).replace('"', '""') + '"',
            # Of a failed query nothing is logged: its statement, its message and its DETAIL line quote the data.
            "log_min_messages": "log",
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*as_user_of(self.data), programs.postgres_program("postgres"), "-D", str(self.data), *options]

    def prepare(self, lock: TextIO) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise(lock)
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise EmbeddedServerError(f"{self.data} is of PostgreSQL {version}, not 18: move it away")

    def _initialise(self, lock: TextIO) -> None:
        """Makes the data folder complete or not at all: a killed command leaves only a folder that is thrown away.

        initdb outlives the command that was killed; it holds the lock, so that the next one waits for its end.
        """
        new = self.var / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        as_user = as_user_of(new)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [programs.postgres_program("initdb"), "-D", str(new), "-U", "postgres", "--auth=trust", *locale]
        self._run([*as_user, *initdb, "--set=timezone=UTC"], lock)
        single_user = [programs.postgres_program("postgres"), "--single", "-D", str(new), "postgres"]
        self._run([*as_user, *single_user], lock, f"CREATE DATABASE {DATABASE}")
        new.rename(self.data)

    def _run(self, command: list[str], lock: TextIO, text: str = "") -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, input=text.encode(), stdout=log, stderr=log, cwd=self.var, umask=0o077,
                env=clean_environment(), pass_fds=[lock.fileno()],
            )  # fmt: skip
        if done.returncode:
            raise EmbeddedServerError(f"{self.name} can't be set up: see {self.log}")

    def serves(self, connection: socket.socket) -> bool:
        """It takes connections before it has recovered from a crash. The last line of this file tells when it has."""
        return self.pid_file.read_text().rstrip().endswith("ready")


class Valkey(Server):
    name = "redis"
    socket_name = "redis.sock"
    pid_name = "valkey.pid"

    def command(self) -> list[str]:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        options += ["--pidfile", str(self.pid_file)]
        return [programs.valkey_program(), *options, "--dir", str(self.data), "--appendonly", "yes", "--save", ""]

    def serves(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(100).startswith(b"+PONG")


def socket_folder(var: Path) -> Path:
    """Returns `var/run`, or a folder in the temp directory where that path is too long for a socket.

    Or holds a comma: to libpq that is a list of hosts.
    """
    folder = var / "run"
    if len(os.fsencode(folder / Postgres.socket_name)) <= _LONGEST_PATH and "," not in str(folder):
        return folder
    name = hashlib.sha256(os.fsencode(var)).hexdigest()[:16]
    return Path("/tmp") / f"voiceassist-{os.geteuid()}-{name}"  # whatever TMPDIR says: all commands are to agree
