"""The program age, or a stand-in for machines that lack it, made from pyrage, which implements the same format.

The stand-in understands the options that the scripts in `ops/backup` use. With CI in the environment age itself is
required.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyrage

AGE = shutil.which("age")


def new_identity(path: Path) -> str:
    """Write a new private key to a file. Return the public key."""
    identity = pyrage.x25519.Identity.generate()
    path.write_text(f"{identity}\n")
    return str(identity.to_public())


def install(folder: Path) -> str:
    """Return the folder that has to be in PATH so that `age` is found."""
    if AGE or "CI" in os.environ:
        assert AGE, "age not found. Install Debian's package age."
        return str(Path(AGE).parent)
    program = folder / "age"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(0o755)
    return str(folder)


def main(*arguments: str) -> None:
    # The stubs of pyrage name a class of streams that standard streams and files don't inherit from.
    source: Any
    target: Any = sys.stdout.buffer
    match arguments:
        case ("--encrypt", "--recipients-file", recipients):
            lines = Path(recipients).read_text().split()
            source = sys.stdin.buffer
            pyrage.encrypt_io(source, target, [pyrage.x25519.Recipient.from_str(line) for line in lines])
        case ("--decrypt", "--identity", identity, path):
            lines = [line for line in Path(identity).read_text().split() if line.startswith("AGE-SECRET-KEY")]
            with Path(path).open("rb") as source:
                pyrage.decrypt_io(source, target, [pyrage.x25519.Identity.from_str(line) for line in lines])
        case _:
            raise ValueError("unknown options")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"age: error: {error}")
