"""HAProxy with a configuration that we ship, in front of free ports."""

import csv
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from tests.support.dependency_servers import Server

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
needs_haproxy = pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="no haproxy here; CI has it")


class HAProxy(Server):
    """Listens on `port`. `environment` is what the configuration reads, beside LISTEN."""

    def __init__(self, folder: Path, config: str, **environment: str) -> None:
        super().__init__(folder)
        self.environment = {"LISTEN": f"127.0.0.1:{self.port}", **environment}
        self._config = ROOT / "ops" / config
        self._control = folder / "control.sock"
        self._counting = folder / "counting.cfg"
        self._counting.write_text(f"global\n    stats socket {self._control}\n")

    def command(self) -> list[str]:
        assert PROGRAM
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *variables, PROGRAM, "-db", "-f", str(self._config), "-f", str(self._counting)]

    def ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 2).close()
        except OSError:
            return False
        return self._control.exists()

    def rows(self) -> list[dict[str, str]]:
        """Returns what HAProxy has counted, a row for each server and one for each backend."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._control))
            connection.sendall(b"show stat\n")
            with connection.makefile() as file:
                return list(csv.DictReader(line.removeprefix("# ") for line in file if line.strip()))

    def up(self, backend: str) -> set[str]:
        """Returns the servers of the backend that HAProxy sends requests to."""
        return {
            row["svname"]
            for row in self.rows()
            if row["pxname"] == backend and row["svname"] not in ("BACKEND", "FRONTEND") and row["status"] == "UP"
        }

    def wait_for(self, backend: str, servers: set[str], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while (found := self.up(backend)) != servers:
            assert time.monotonic() < end, (backend, found, servers)
            time.sleep(0.05)

    def requests(self) -> dict[tuple[str, str], int]:
        """Returns how many requests or connections each server got, by backend and name."""
        return {(row["pxname"], row["svname"]): int(row["stot"]) for row in self.rows()}
