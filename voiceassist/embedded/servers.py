"""The two embedded servers: their data, their commands and their probes."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import TextIO

from voiceassist.embedded import programs
from voiceassist.embedded.programs import (
    EmbeddedServerError,
    as_user_of,
    clean_environment,
    psql,
    require_user_name,
)
from voiceassist.embedded.server_process import POSTGRES_SOCKET, START_TIMEOUT, Server

DATABASE = "voiceassist"
SUPERUSER = "postgres"
ROLES = Path(__file__).resolve().parents[2] / "ops" / "postgresql" / "roles.sql"


class Postgres(Server):
    name = "postgres"
    socket_name = POSTGRES_SOCKET
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
        except (FileNotFoundError, NotADirectoryError):
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
        require_user_name()
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
