"""The two embedded servers: how they are initialised, started, probed and stopped."""

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
from voiceassist.embedded.programs import EmbeddedServerError, as_user_of, clean_environment, psql

DATABASE = "voiceassist"
SUPERUSER = "postgres"
ROLES = Path(__file__).resolve().parents[2] / "ops" / "postgresql" / "roles.sql"
START_TIMEOUT = 60  # seconds to start or stop; after a crash a server replays its log first
MIN_FREE_SPACE = 100 * 1024**2  # bytes; a new PostgreSQL takes about 60 MiB, and a full disk keeps no log
MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, macOS 103


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


class Postgres(Server):
    name = "postgres"
    socket_name = ".s.PGSQL.5432"
    pid_name = "postmaster.pid"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(self.folder).replace('"', '""') + '"',
            # Failed queries and parameters are not logged, because they and the DETAIL line quote the data.
            "log_min_messages": "log",
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
            "log_parameter_max_length": "0",
            "log_parameter_max_length_on_error": "0",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*as_user_of(self.data), programs.postgres_program("postgres"), "-D", str(self.data), *options]

    def prepare(self, lock: TextIO) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise(lock)
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise EmbeddedServerError(
                f"{self.data} was created by PostgreSQL {version}, not 18. Move it elsewhere, then try again."
            )

    def is_prepared(self) -> bool:
        """Return whether this version of roles.sql has run in the data folder. Older folders lack the roles."""
        try:
            return self._applied_roles.read_bytes() == ROLES.read_bytes()
        except FileNotFoundError:
            return False

    @property
    def _applied_roles(self) -> Path:
        return self.data / "voiceassist-roles.sql"  # in the data folder, so that it goes where the database goes

    def finish(self) -> None:
        """Create the roles and give them the tables, which belonged to the superuser in older folders."""
        applied = ROLES.read_bytes()
        command = psql(str(self.folder), DATABASE, SUPERUSER, ROLES)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=clean_environment(), timeout=START_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedServerError(f"{self.name} does not respond. Run `make stop`, then try again.") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["unknown reason"])[0]
            raise EmbeddedServerError(f"The roles of {self.name} could not be created: {reason}. Try again.")
        self._applied_roles.write_bytes(applied)

    def _initialise(self, lock: TextIO) -> None:
        """Create the data folder and the database atomically, by renaming a complete folder.

        initdb may outlive a killed command. It inherits the lock, so that the next command waits until it has ended.
        """
        new = self.var / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        as_user = as_user_of(new)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [programs.postgres_program("initdb"), "-D", str(new), "-U", SUPERUSER, "--auth=trust", *locale]
        self._run([*as_user, *initdb, "--set=timezone=UTC"], lock)
        single_user = [programs.postgres_program("postgres"), "--single", "-D", str(new), "postgres"]
        self._run([*as_user, *single_user], lock, f"CREATE DATABASE {DATABASE}")
        new.rename(self.data)

    def _run(self, command: list[str], lock: TextIO, stdin: str = "") -> None:
        with self.log.open("ab") as log:
            process = subprocess.run(
                command, input=stdin.encode(), stdout=log, stderr=log, cwd=self.var, umask=0o077,
                env=clean_environment(), pass_fds=[lock.fileno()],
            )  # fmt: skip
        if process.returncode:
            raise EmbeddedServerError(f"{self.name} could not be initialised. {self._reason()}")

    def is_responding(self, connection: socket.socket) -> bool:
        """Return whether recovery is complete, which the last line of the pid file shows.

        PostgreSQL accepts connections earlier, while it recovers from a crash.
        """
        return self.pid_file.read_text().rstrip().endswith("ready")


class Valkey(Server):
    name = "redis"
    socket_name = "redis.sock"
    pid_name = "valkey.pid"

    def command(self) -> list[str]:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        options += ["--pidfile", str(self.pid_file)]
        return [programs.valkey_program(), *options, "--dir", str(self.data), "--appendonly", "yes", "--save", ""]

    def is_responding(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(100).startswith(b"+PONG")


def socket_folder(var: Path) -> Path:
    """Return `var/run`, or a folder under /tmp if that path is too long for a socket or contains a comma.

    libpq splits a host at commas.
    """
    folder = var / "run"
    if len(os.fsencode(folder / Postgres.socket_name)) <= MAX_SOCKET_PATH and "," not in str(folder):
        return folder
    name = hashlib.sha256(os.fsencode(var)).hexdigest()[:16]
    return Path("/tmp") / f"voiceassist-{os.geteuid()}-{name}"  # not TMPDIR, which may differ between commands
