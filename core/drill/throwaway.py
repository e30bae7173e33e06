"""A PostgreSQL server for a drill. It listens only on a socket in its own folder, and ends with the drill.

Drills also run in a worker for jobs. When that stops, it waits a short time only, so it ends the drill's programs. The
drill then fails and removes the decrypted data.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings

from core.drill.manifest import DrillError, Manifest
from core.jobs.progress import Interrupted, keep_going

_POLL_INTERVAL = 0.5  # seconds
_MAX_DURATION = 86_400.0  # seconds, of one program or server
_PREFIX = "voiceassist-drill-"
_CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{folder}/socket'
hba_file = '{folder}/pg_hba.conf'
log_min_messages = log
log_error_verbosity = terse
log_min_error_statement = panic
"""


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of PostgreSQL's programs and of the scripts, without the variables of a real server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    path = ":".join(filter(None, (settings.POSTGRES_PROGRAMS, os.environ.get("PATH", ""))))
    return {**kept, "LC_ALL": "C", "PATH": path, **variables}


def run(*command: str | Path, **variables: str) -> str:
    """Run a program and return what it printed. Raise DrillError with the line that says why it failed."""
    # At a terminal, which belongs to the session, age can ask for a passphrase, and Ctrl-C reaches all programs.
    has_own_session = not sys.stdin.isatty()
    try:
        process = subprocess.Popen(
            command, env=environment(**variables), start_new_session=has_own_session, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise DrillError(f"The program {Path(command[0]).name} is not in PATH. Install PostgreSQL and age.") from None

    def end() -> None:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if has_own_session:  # with the programs that a script has started. A worker blocks SIGTERM, so they do too
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    _end_with_worker(process, end)
    with process:
        try:
            stdout, stderr = process.communicate()
        except BaseException:
            end()
            raise
    if process.returncode:
        lines = stderr.strip().splitlines() or ["no reason was given"]
        raise DrillError(next((line for line in lines if "error" in line.lower()), lines[-1]))
    return stdout


def _end_with_worker(process: "subprocess.Popen[Any]", end: Callable[[], None]) -> None:
    """Count as progress of the job while the program runs. Call `end` when the worker stops, or after a day."""

    def watch() -> None:
        deadline = time.monotonic() + _MAX_DURATION
        with suppress(Interrupted):
            while process.poll() is None and time.monotonic() < deadline:
                keep_going()
                time.sleep(_POLL_INTERVAL)
        if process.poll() is None:
            end()

    threading.Thread(target=copy_context().run, args=(watch,), name="drill", daemon=True).start()


def check_programs(manifest: Manifest) -> None:
    """Raise DrillError if PostgreSQL can't be started here, or not with the data of this backup."""
    version = run("postgres", "--version").split()[2] if shutil.which("postgres", path=environment()["PATH"]) else ""
    if version.split(".")[0] != manifest.postgresql_major:
        raise DrillError(
            f"PATH has {f'PostgreSQL {version}' if version else 'no PostgreSQL server'}, and the backup is of version "
            f"{manifest.postgresql_version}. Put the programs of that major version first in PATH."
        )
    if os.geteuid() == 0:
        raise DrillError("PostgreSQL refuses to run as root. Run the drill as another user, such as postgres.")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for all decrypted data, and remove it. Also remove those of drills that were killed."""
    for stale in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_stale(stale)
    new = Path(tempfile.mkdtemp(prefix="voiceassist-new-"))  # mode 0700
    with (new / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = new.rename(new.with_name(new.name.replace("voiceassist-new-", _PREFIX)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_stale(folder: Path) -> None:
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another drill has the lock, or the folder belongs to another user
        return
    for pid_file in folder.glob("*/data/postmaster.pid"):
        command = ["pg_ctl", "stop", "--pgdata", str(pid_file.parent), "--silent", "--mode", "immediate"]
        subprocess.run(command, env=environment(), capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """`folder` contains the data folder `data` and the configuration file `recovery.conf`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.data, self.log = folder, folder / "data", folder / "log"
        self.socket = folder / "socket"
        self._manifest = manifest
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        """Create an empty database, for a dump."""
        self.socket.mkdir(parents=True)
        (self.folder / "pg_hba.conf").write_text("local all all trust\n")
        (self.folder / "recovery.conf").write_text(_CONFIGURATION.format(folder=self.folder))
        options = ("--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync")
        run("initdb", "--pgdata", self.data, "--username", self._manifest.superuser, *options)

    def start(self, options: Mapping[str, str] | None = None, *, until: str) -> None:
        """Start the server, and wait until the query `until` returns true. Raise DrillError if the server ends."""
        settings_ = [word for name, value in (options or {}).items() for word in ("-c", f"{name}={value}")]
        command = ["postgres", "-D", str(self.data), "-c", f"config_file={self.folder / 'recovery.conf'}", *settings_]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _end_with_worker(self._process, partial(self._process.send_signal, signal.SIGQUIT))  # immediate shutdown
        while not self._returns_true(until):
            if self._process.poll() is not None:
                raise DrillError(self._reason())
            time.sleep(0.1)

    def _reason(self) -> str:
        """Return why the server ended. Clients that came too early are in the log too."""
        lines = self.log.read_text(errors="replace").splitlines()
        if damaged := next((line for line in lines if line.startswith("fetch_wal.sh: ")), None):
            return f"{damaged}."
        fatal = [line.split("FATAL:")[1].strip() for line in lines if "FATAL:" in line]
        reasons = [reason for reason in fatal if "database system is" not in reason]
        if any("before configured recovery target" in reason for reason in reasons):
            return "The WAL ends before the rows were counted, so later changes are lost. Check that wal.sh is running."
        return f"PostgreSQL ended while it recovered: {reasons[0] if reasons else 'its log has no reason'}."

    def _returns_true(self, query: str) -> bool:
        try:
            with self.connect(database="template1") as connection:
                row = connection.execute(query.encode()).fetchone()
                return bool(row and row[0])
        except psycopg.OperationalError:  # it is starting
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait()
            self._process = None

    def connect(self, *, user: str = "", database: str = "") -> "psycopg.Connection[Any]":
        """Connect in autocommit mode, by default as superuser to the restored database."""
        return psycopg.connect(
            host=str(self.socket),
            user=user or self._manifest.superuser,
            dbname=database or self._manifest.database,
            options=f"-c search_path={self._manifest.schema}",
            autocommit=True,
        )
