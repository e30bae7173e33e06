"""Standard streams that are closed, or whose reader has ended."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # in the order of their descriptors


def open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed, as by `>&-`.

    Python sets a closed stream to None, on which all methods fail. The next file or socket that is opened would get its
    descriptor, and a library's output would be written into it.
    """
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            # `closefd`: otherwise a stream that is replaced would close its descriptor.
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


@contextmanager
def exiting_on_broken_pipe() -> Iterator[None]:
    """Exit without a traceback if the reader of stdout has ended, as `head` does.

    The exit code is 141, as of a program that SIGPIPE has killed. Python ignores that signal.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it exits: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
