"""The flag that the server is draining, in one byte of memory that the master and all workers share.

`voiceassist.gunicorn` imports this in the master, so that every worker inherits the same page of memory.
"""

import mmap

_flag = mmap.mmap(-1, 1)


def begin() -> None:
    _flag[0] = 1


def is_draining() -> bool:
    return _flag[0] == 1
