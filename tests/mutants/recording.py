"""What the tests of a module do without any mutant: how long they take, and what they call."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from tests.mutants.session import Session
from tests.support.plugin import Servers, servers

__all__ = ["servers"]  # the fixture


class Recorded(NamedTuple):
    """One test."""

    seconds: float
    functions: list[str]  # of the module, which the test calls in its own process
    reaches_others: bool  # whether it reaches other processes, which import the module too


class Recording(Session):
    """A plugin of pytest that runs all tests of a module, and records them by their names."""

    def __init__(self, servers: Servers, path: Path, *, migrate: bool) -> None:
        super().__init__(servers, migrate=migrate, recorded={}, selected=None)
        self._path = str(path)
        self._ports = {servers.postgres.port, servers.redis.port, servers.qdrant.port}
        self._called: set[CodeType] = set()
        self._reaching_files: set[Path] = set()
        self._reaches_others = False
        self.imported: list[str] = []  # functions that are called while the tests are imported
        sys.addaudithook(self._audit)
        self._record(True)

    def _record(self, on: bool) -> None:
        profile: Any = self._profile if on else None
        sys.setprofile(profile)
        threading.setprofile(profile)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == self._path:
            self._called.add(frame.f_code)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Notice processes that are started, and connections to servers that are not those of all tests."""
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "socket.sendmsg"):
            self._reaches_others = True
        elif event == "socket.connect":
            address = arguments[1]
            self._reaches_others |= not (isinstance(address, tuple) and address[1] in self._ports)

    def _functions(self) -> list[str]:
        names = sorted({code.co_qualname for code in self._called})
        self._called.clear()
        return names

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.imported = self._functions()
        self._record(False)
        return super().pytest_runtestloop(session)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.monotonic()
        self._reaches_others = False
        self._record(True)
        try:
            return (yield)
        finally:
            self._record(False)
            if self._reaches_others:  # later tests of the file may use the connection again
                self._reaching_files.add(item.path)
            seconds = round(time.monotonic() - start, 3)
            self.recorded[item.nodeid] = Recorded(seconds, self._functions(), item.path in self._reaching_files)
