"""The private folder of one running server, for the files that its processes share.

    counter_17.db, …     metrics of process 17, see health.multiprocess.metric_files
    state_17.json        readiness state of worker 17, see health.multiprocess.worker_states

The folder is in shared memory if the system has it, because on a slow disk every request would wait for its metrics.
Without gunicorn there is one process and no folder.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_MIN_FREE_SPACE = 16 * 1024**2  # bytes; the files of one process take less than 1 MiB
_PREFIX = "voiceassist-runtime-"

path: Path | None = None  # None outside of gunicorn


def parent() -> Path:
    """Return the directory for runtime folders: shared memory if usable, otherwise the temp directory.

    Shared memory must be writable and have free space. A write to a mapped file kills the process if there is none.
    """
    is_writable = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    is_usable = is_writable and shutil.disk_usage(_SHARED_MEMORY).free >= _MIN_FREE_SPACE
    return _SHARED_MEMORY if is_usable else Path(tempfile.gettempdir())


def create() -> None:
    """Create the folder and remove those of servers that were killed. Do nothing if the folder exists.

    The master holds a lock on its folder and every worker inherits it, so that an unlocked folder belongs to no running
    process. The kernel releases the lock when the last of them ends.
    """
    global path
    if path is not None:
        return
    for folder in parent().glob(f"{_PREFIX}*"):
        _remove_if_unlocked(folder)
    while path is None:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent()))
        with suppress(OSError):  # on a file system without locks, no other server removes the folder either
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
        if folder.exists():  # otherwise a server that is starting removed it before it was locked
            path = folder
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)  # prometheus_client reads it when it is first imported


def _remove_if_unlocked(folder: Path) -> None:
    with suppress(OSError):  # in use, another user's, or not a folder
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def remove() -> None:
    global path
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
        path = None
