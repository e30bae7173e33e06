"""The stacks of a worker that hangs or crashes: what each of its threads was doing when it received SIGABRT or SIGSEGV.

Gunicorn's master sends that signal to a worker whose main thread has not responded for `timeout` seconds, and a second
later SIGKILL. A Python handler would not run while the main thread is in C code, and could not log while a lock of the
log is held. So `faulthandler` writes the stacks to a file of the runtime folder, inside the signal handler, and the
master logs them when the worker has ended.

    stacks_17       stacks of worker 17

A stack has files, lines and functions, never values. A stopped process (SIGSTOP) and one that waits for a disk run no
signal handler and leave none. `faulthandler` covers SIGBUS, SIGFPE and SIGILL too.
"""

import faulthandler
import os
import re
from collections import Counter
from typing import Any

import structlog

from health.multiprocess import runtime_folder

log = structlog.stdlib.get_logger("voiceassist.server")

MAX_FRAMES = 30  # of a stack, the innermost, as of an exception in the log

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
_file: Any = None  # kept open, because nothing can be opened in a signal handler


def record() -> None:
    """Let the signals write the stacks of this worker. Call this after gunicorn has installed its own handlers.

    The previous handler runs afterwards.
    """
    global _file
    if runtime_folder.path:
        _file = (runtime_folder.path / f"stacks_{os.getpid()}").open("w")
        faulthandler.enable(_file, all_threads=True)


def log_stacks(pid: int, *, was_aborted: bool) -> None:
    """Log each stack of a dead worker once, with the number of threads that have it. Only the master calls this."""
    assert runtime_folder.path
    path = runtime_folder.path / f"stacks_{pid}"
    text = path.read_text(errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    stacks = Counter(map(tuple, _parse(text)))
    cause = re.search(r"^Fatal Python error: ([\w ]+)", text)  # such as "Aborted" or "Segmentation fault"
    for frames, threads in stacks.items():
        log.error("a worker hung or crashed", pid=pid, cause=cause and cause[1].lower(), threads=threads, frames=frames)
    if was_aborted and not stacks:
        log.error(
            "A worker hung and left no stack, because it was stopped (SIGSTOP) or waited for a disk, or because the "
            "folder of the files that workers share is full.",
            pid=pid,
        )


def _parse(text: str) -> list[list[str]]:
    """Return the stacks in the output of faulthandler, with the innermost frame last, as in exceptions of the log."""
    stacks = []
    for stack in re.split(r"^(?:Current thread|Thread) .*$", text, flags=re.MULTILINE)[1:]:
        frames = [f"{frame['file']}:{frame['line']} {frame['function']}" for frame in _FRAME.finditer(stack)]
        stacks.append(frames[:MAX_FRAMES][::-1])
    return [frames for frames in stacks if frames]
