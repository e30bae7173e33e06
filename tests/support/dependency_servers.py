"""Real servers for tests, from the wheels, on free loopback ports and with passwords.

Tests can start, stop, kill and freeze them (`tests.support.server_process`). A restart keeps the port and the data.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg
import pytest

from core.database_roles import APPLICATION_ROLE, OWNER_ROLE
from tests.support.server_process import Server as Server
from tests.support.server_process import free_port as free_port
from tests.support.shared_memory import remove_segment
from voiceassist.embedded.programs import as_user_of, clean_environment, postgres_program, psql, valkey_program
from voiceassist.embedded.servers import ROLES

PASSWORD = "se:cr@t/pass%word"
QUOTED = "se%3Acr%40t%2Fpass%25word"
SUPERUSER = "tester"
_PATH = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
PGBOUNCER = shutil.which("pgbouncer", path=_PATH)
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None and "CI" not in os.environ, reason="pgbouncer is not installed")


def unprivileged_command(data: Path) -> list[str]:
    as_user = as_user_of(data)
    # Changing the user resets the signal that die_with_parent has set.
    return [as_user[0], "--pdeathsig=KILL", *as_user[1:]] if as_user else []


def as_role(url: str, role: str) -> str:
    """Return the URL of a tests' server with another role, which has the same password."""
    return re.sub(r"(?<=://)\w+(?=:)", role, url, count=1)


def as_application(url: str) -> str:
    return as_role(url, APPLICATION_ROLE)


def as_owner(url: str) -> str:
    """Return the URL with the role that `migrate` has in production."""
    return as_role(url, OWNER_ROLE)


def accepts_connections(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


# As docker-compose.yml sets them, otherwise the application would warn of every server of the tests.
NO_VALUES_IN_LOG = (
    "log_min_messages=log",
    "log_error_verbosity=terse",
    "log_min_error_statement=panic",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
)


class Postgres(Server):
    """A server with the superuser `tester`, the database `tests`, and the roles of ops/postgresql/roles.sql.

    `url` is the superuser's. All roles have the same password. New databases have the privileges of the template.
    """

    _needs_roles = False  # False also if the data comes from another server

    def __init__(self, folder: Path, *, options: Iterable[str] = (), has_roles: bool = True) -> None:
        super().__init__(folder)
        self._wants_roles = has_roles
        self.data = folder / "data"
        self.url = f"postgres://{SUPERUSER}:{QUOTED}@127.0.0.1:{self.port}/tests"
        self.application_url = as_application(self.url)
        self._as_user = unprivileged_command(self.data)
        self._options = [word for option in (*NO_VALUES_IN_LOG, *options) for word in ("-c", option)]
        self._initialise()

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        run = {"check": True, "capture_output": True, "env": clean_environment()}
        subprocess.run([*self._as_user, postgres_program("initdb"), "-D", self.data, "-U", SUPERUSER, "--no-sync",
                        "--set=scram_iterations=1", "--auth=scram-sha-256", f"--pwfile={password}",
                        "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                        "--builtin-locale=C.UTF-8"], **run)  # type: ignore[call-overload]  # fmt: skip
        subprocess.run([*self._as_user, postgres_program("postgres"), "--single", "-D", self.data, "postgres"],
                       input=b"CREATE DATABASE tests", **run)  # type: ignore[call-overload]  # fmt: skip
        self._needs_roles = self._wants_roles

    def start(self) -> None:
        super().start()
        if self._needs_roles:
            self.run_roles_file("template1", migrate=PASSWORD, app=PASSWORD)
            self.run_roles_file("tests")
            self._needs_roles = False

    def kill(self) -> None:
        super().kill()
        remove_segment(self.data)

    def run_roles_file(self, database: str, *, user: str = SUPERUSER, **passwords: str) -> None:
        """Run ops/postgresql/roles.sql. `passwords` are those of the roles `migrate` and `app`."""
        files = {f"POSTGRES_{role.upper()}_PASSWORD_FILE": self.folder / f"password-{role}" for role in passwords}
        for file, password in zip(files.values(), passwords.values(), strict=True):
            file.write_text(f"{password}\n")
        environment = {
            **clean_environment(),
            **{name: str(file) for name, file in files.items()},
            "PGPORT": str(self.port),
            "PGPASSWORD": PASSWORD,
            # Some tests configure a synchronous standby that does not exist.
            "PGOPTIONS": "-c synchronous_commit=local",
        }
        done = subprocess.run(psql("127.0.0.1", database, user, ROLES), capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr

    def command(self) -> list[str]:
        return [*self._as_user, postgres_program("postgres"), "-D", str(self.data), "-p", str(self.port),
                "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
                # A killed server leaves its segments behind. With the default they fill /dev/shm.
                "-c", "dynamic_shared_memory_type=mmap",
                # The default makes clients compute 4096 hashes for each connection, which takes 2 ms.
                "-c", "scram_iterations=1",
                *self._options]  # fmt: skip

    def is_ready(self) -> bool:
        return accepts_connections(self.url)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())


def user_list() -> str:
    """Return the content of PgBouncer's auth_file."""
    return "".join(f'"{role}" "{PASSWORD}"\n' for role in (SUPERUSER, OWNER_ROLE, APPLICATION_ROLE))


class PgBouncer(Server):
    """A connection pooler in transaction mode: consecutive transactions use different server connections."""

    def __init__(self, folder: Path, postgres: Postgres, *, pool: int = 2) -> None:
        super().__init__(folder)
        self._postgres_port = postgres.port
        self.url = self.url_for(postgres.url)
        (folder / "users").write_text(user_list())
        (folder / "pgbouncer.ini").write_text(f"""
            [databases]
            * = host=127.0.0.1 port={postgres.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {folder / "users"}
            pool_mode = transaction
            default_pool_size = {pool}
            server_round_robin = 1
            ignore_startup_parameters = extra_float_digits,options
        """)

    def url_for(self, url: str) -> str:
        """Return the URL of the pooler for the database at `url`."""
        return url.replace(f":{self._postgres_port}/", f":{self.port}/")

    def command(self) -> list[str]:
        assert PGBOUNCER
        return [*unprivileged_command(self.folder / "no data"), PGBOUNCER, str(self.folder / "pgbouncer.ini")]

    def is_ready(self) -> bool:
        return accepts_connections(self.url)


class Valkey(Server):
    password, quoted = PASSWORD, QUOTED

    def __init__(self, folder: Path, *, replica_of: "Valkey | None" = None, options: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.url = f"redis://:{self.quoted}@127.0.0.1:{self.port}/0"
        self.options = options
        if replica_of:
            self.options += ("--replicaof", f"127.0.0.1 {replica_of.port}", "--primaryauth", self.password)

    def command(self) -> list[str]:
        return [valkey_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", self.password,
                "--dir", str(self.folder), "--save", "", "--appendonly", "yes", *self.options]  # fmt: skip

    def is_ready(self) -> bool:
        return b"PONG" in self.send_command("PING")

    def add_worker(self) -> None:
        """Make the check `queue` find a worker until the data is flushed, so that the server is `ready` in tests."""
        response = self.send_command(f"ZADD voiceassist:queue:workers {time.time() + 86400} tests")
        assert response.endswith((b":1\r\n", b":0\r\n")), response  # 0 if it is there already

    def send_command(self, command: str) -> bytes:
        """Return the raw response to one command, b"" if there is no response."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(f"AUTH {self.password}\r\n{command}\r\n".encode())
                connection.shutdown(socket.SHUT_WR)
                response = b""
                while chunk := connection.recv(4096):
                    response += chunk
                return response
        except OSError:
            return b""
