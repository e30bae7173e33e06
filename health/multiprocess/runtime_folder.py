"""The private folder of one running server, for the files that its processes share.

    counter_17.db, …     metrics of process 17, see health.multiprocess.metric_files
    state_17.json        readiness state of worker 17, see health.multiprocess.worker_states
    stacks_17            stacks of worker 17, see health.multiprocess.worker_stacks
    process_worker-1     process id of a worker, see health.multiprocess.process_metrics

The folder is in shared memory if the system has it, because on a slow disk every request would wait for its metrics.
Without gunicorn there is one process and no folder.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_MIN_FREE_SPACE = 16 * 1024**2  # bytes of shared memory; the files of one process take less than 1 MiB
_START_SPACE = 1024**2  # bytes without which the server does not start
_PREFIX = "voiceassist-runtime-"

path: Path | None = None  # None outside of gunicorn


def parent() -> Path:
    """Return the directory for runtime folders: shared memory if it is writable and has space, otherwise TMPDIR.

    Exit with one line if neither exists.
    """
    is_writable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    if is_writable and shutil.disk_usage(_SHARED_MEMORY).free >= _MIN_FREE_SPACE:
        return _SHARED_MEMORY
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # it names the directories that Python tried
        sys.exit(
            f"voiceassist: {_SHARED_MEMORY} has no {_MIN_FREE_SPACE // 1024**2} MiB of free, writable space. "
            f"{error.strerror}. Free space in one of them, or set TMPDIR to a writable directory."
        )


def create() -> None:
    """Create the folder and remove those of servers that were killed. Do nothing if the folder exists.

    The master holds a lock on its folder and every worker inherits it, so that an unlocked folder belongs to no running
    process. The kernel releases the lock when the last of them ends. Exit with one line if there is no space.
    """
    global path
    if path is not None:
        return
    directory = parent()
    for folder in directory.glob(f"{_PREFIX}*"):
        _remove_if_unlocked(folder)
    try:
        while path is None:
            path = _create_in(directory)
        _require_space(path)
    except OSError as error:
        remove()
        sys.exit(
            f"voiceassist: Can't write the files that workers share to {directory} ({error.strerror}). "
            "Free space there, or set TMPDIR to another directory."
        )
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)  # prometheus_client reads it when it is first imported


def _create_in(directory: Path) -> Path | None:
    """Create a locked folder and return its path, or None if a starting server removed it before it was locked."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=directory))
    with suppress(OSError):  # on a file system without locks, no other server removes the folder either
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    return folder if folder.exists() else None


def _require_space(folder: Path) -> None:
    try:
        allocate(folder / "space", _START_SPACE)
    finally:
        (folder / "space").unlink(missing_ok=True)


def allocate(file_path: Path | str, size: int) -> None:
    """Create the file, or extend it to `size` bytes. Raise OSError, and leave it as it was, if there is no space.

    Zeros are written, because `os.posix_fallocate` does not exist on macOS and fails on some file systems of Linux.
    """
    with open(file_path, "ab", buffering=0) as file:
        old_size = written = file.tell()
        try:
            while written < size:
                written += file.write(bytes(size - written))
        except OSError:
            file.truncate(old_size)
            raise


def write(name: str, text: str) -> None:
    """Replace a file of the folder, if there is one. Readers see the old text or the new one, never a part."""
    if path:
        incomplete = path / f"{name}.tmp"
        incomplete.write_text(text)
        os.replace(incomplete, path / name)


def _remove_if_unlocked(folder: Path) -> None:
    with suppress(OSError):  # in use, another user's, or not a folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)


def remove() -> None:
    global path
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
        path = None
