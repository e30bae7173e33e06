"""Has the server been told to stop? One byte that the master and all its workers share.

`voiceassist.gunicorn` imports this in the master, so that every worker it forks has the same page of memory.
"""

import mmap

_flag = mmap.mmap(-1, 1)


def begin() -> None:
    _flag[0] = 1


def is_draining() -> bool:
    return _flag[0] == 1
