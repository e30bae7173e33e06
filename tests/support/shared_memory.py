"""The System V shared memory that killed PostgreSQL servers leave behind. A system has at most 4096 segments."""

import ctypes
from contextlib import suppress
from pathlib import Path

_IPC_RMID = 0


def segment_of(data: Path) -> int | None:
    """Return the id of the segment of the server with this data, None if the server was stopped or has none.

    PostgreSQL notices by it that processes of a killed server still use the data. It is in line 7 of the lock file,
    after its key: https://www.postgresql.org/docs/current/storage-file-layout.html
    """
    with suppress(FileNotFoundError, IndexError):
        return int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
    return None


def remove_segment(data: Path) -> None:
    """Remove the segment of a server that was killed, and of which no process runs any more."""
    segment = segment_of(data)
    if segment is not None:
        ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
