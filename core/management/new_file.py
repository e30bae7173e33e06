"""Write a file that is either complete or does not exist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(output: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file in the same folder, with mode 0600. Rename it at the end, remove it after an exception."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(output)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
