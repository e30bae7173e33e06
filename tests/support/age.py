"""The program age, or a stand-in for machines that lack it, made from pyrage, which implements the same format.

The stand-in understands the options that the scripts in `ops/backup` use. With CI in the environment age itself is
required.
"""

import os
import shutil
import sys
from pathlib import Path

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
    match arguments:
        case ("--encrypt", "--recipients-file", recipients):
            lines = Path(recipients).read_text().split()
            keys = [pyrage.x25519.Recipient.from_str(line) for line in lines]
            pyrage.encrypt_io(sys.stdin.buffer, sys.stdout.buffer, keys)
        case ("--decrypt", "--identity", identity, source):
            lines = [line for line in Path(identity).read_text().split() if line.startswith("AGE-SECRET-KEY")]
            with Path(source).open("rb") as file:
                keys = [pyrage.x25519.Identity.from_str(line) for line in lines]
                pyrage.decrypt_io(file, sys.stdout.buffer, keys)
        case _:
            raise ValueError("unknown options")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"age: error: {error}")
