"""What the workers of one server tell each other: memory that they share, with a seat for each.

`voiceassist.gunicorn` imports this in the master, which gives each worker that it forks a seat of its own:

    seat      pid, when it was born, when it last gave a sign of life, two pages
    page      number, length and checksum of the text on it

A worker writes on its own seat and reads all: there is no lock that a killed or stopped one could hold. It writes on
its two pages in turn, so that one who dies while writing leaves the page before. And it is memory alone: no disk that
could hang a probe, nothing to clean up. Without gunicorn there is one process, on the first seat.
"""

import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass

_SEATS = 256  # the system gives memory for those that are written on
_STATE = struct.Struct("=qdd")
_PAGE_HEAD = struct.Struct("=QII")
_PAGE = 32 * 1024
_SEAT = 2 * _PAGE
_SERVER = struct.Struct("=Id")  # how many workers there should be, until when somebody looks at them
_RESERVED = -1  # in place of the pid, until the worker is there

_server = mmap.mmap(-1, mmap.PAGESIZE)
_states = mmap.mmap(-1, _SEATS * _STATE.size)
_pages = mmap.mmap(-1, _SEATS * _SEAT)
_own: int | None = 0  # this process's; None: there was none left
_number = 0

began = time.monotonic()  # of the server: the master imports this


@dataclass(frozen=True, slots=True)
class Seat:
    number: int
    pid: int  # 0: its worker is gone
    born: float  # time.monotonic(): one clock for all processes of a machine, which nobody sets
    beat: float
    text: str


def configure(count: int) -> None:
    """In the master: so many workers there should be."""
    _SERVER.pack_into(_server, 0, count, _SERVER.unpack_from(_server)[1])


def configured() -> int:
    count: int = _SERVER.unpack_from(_server)[0]
    return count or 1


def _state(seat: int) -> tuple[int, float, float]:
    pid, born, last = _STATE.unpack_from(_states, seat * _STATE.size)
    return pid, born, last


def _set_state(seat: int, pid: int, born: float, last: float) -> None:
    _STATE.pack_into(_states, seat * _STATE.size, pid, born, last)


def reserve() -> int | None:
    """In the master, before it forks: returns a seat that nobody has. A worker without one is not heard of."""
    for seat in range(_SEATS):
        pid, *times = _state(seat)
        if pid == 0:
            _set_state(seat, _RESERVED, *times)
            return seat
    return None


def take(seat: int | None) -> None:
    """In the worker, once."""
    global _own
    _own = seat
    if seat is not None:
        _set_state(seat, os.getpid(), time.monotonic(), time.monotonic())


def leave(seat: int | None) -> None:
    """In the master, when the worker has ended. What it wrote stays to be read until the next one sits there."""
    if seat is not None:
        _set_state(seat, 0, *_state(seat)[1:])


def beat() -> None:
    """A sign of life."""
    if _own is not None:
        pid, born, _ = _state(_own)
        _set_state(_own, pid, born, time.monotonic())


def watch(seconds: float) -> None:
    """Somebody looks at all of them, for so long: each should have something new to tell."""
    _SERVER.pack_into(_server, 0, _SERVER.unpack_from(_server)[0], time.monotonic() + seconds)


def watched() -> bool:
    until: float = _SERVER.unpack_from(_server)[1]
    return time.monotonic() < until


def write(text: str) -> None:
    """Replaces what this process tells. Raises ValueError for a text that is longer than a page."""
    global _number
    data = text.encode()
    if len(data) > _PAGE - _PAGE_HEAD.size:
        raise ValueError(f"{len(data)} bytes don't fit on a page")
    if _own is None:
        return
    if _state(_own)[0] == 0:
        _set_state(_own, os.getpid(), began, time.monotonic())  # a process that no master has given a seat
    _number = max(_number, _newest(_own)[0]) + 1
    start = _own * _SEAT + _number % 2 * _PAGE
    _pages[start + _PAGE_HEAD.size : start + _PAGE_HEAD.size + len(data)] = data
    _PAGE_HEAD.pack_into(_pages, start, _number, len(data), zlib.crc32(data))


def own() -> str:
    """Returns what stands on this process's seat. After a worker's death that is its predecessor's."""
    return "" if _own is None else _newest(_own)[1]


def read() -> list[Seat]:
    """Returns every seat that anybody has or had. One who is just being born is not there yet."""
    seats = []
    for seat in range(_SEATS):
        pid, born, last = _state(seat)
        if born:
            seats.append(Seat(seat, max(pid, 0), born, last, _newest(seat)[1]))
    return seats


def _newest(seat: int) -> tuple[int, str]:
    """Returns the number and the text of the newer of its two pages. One that is half written counts as empty."""
    found = (0, "")
    for start in (seat * _SEAT, seat * _SEAT + _PAGE):
        number, length, checksum = _PAGE_HEAD.unpack_from(_pages, start)
        data = _pages[start + _PAGE_HEAD.size : start + _PAGE_HEAD.size + min(length, _PAGE - _PAGE_HEAD.size)]
        if number > found[0] and zlib.crc32(data) == checksum:
            found = (number, data.decode())
    return found
