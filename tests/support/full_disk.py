"""Full file systems: a limit of file sizes, which needs no privileges, and mounts that only one process sees."""

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.polling import SLOWNESS

# A user other than root may mount in a user namespace, if the system allows that.
_UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make writes of this process beyond the size fail with EFBIG, as they fail with ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def with_mounts(script: str, *command: str) -> list[str]:
    """Return a command that runs the shell script, which may mount, and then `command`, in a mount namespace."""
    return [*_UNSHARE, "sh", "-ec", f'{script}\nexec "$0" "$@"', *command]


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = with_mounts("mount -t tmpfs -o size=1m none /dev/shm", "true")
    return subprocess.run(command, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(
    "CI" not in os.environ and not _can_mount(), reason="needs Linux and permission to mount"
)


@contextmanager
def no_space_left(folder: Path) -> Iterator[None]:
    """Fill the file system of the folder, and take whatever others free there, until the block ends."""
    stop, is_full = threading.Event(), threading.Event()

    def fill() -> None:
        with (folder / "fill").open("wb", buffering=0) as file:
            while not stop.is_set():
                try:
                    file.write(bytes(4096))
                except OSError:
                    is_full.set()
                    stop.wait(0.001)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert is_full.wait(20 * SLOWNESS)
        yield
    finally:
        stop.set()
        thread.join()
        (folder / "fill").unlink()
