"""HAProxy with one of the configurations in ops/."""

import csv
import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.dependency_servers import Server
from tests.support.polling import succeeds_within

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
needs_haproxy = pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="HAProxy not found")


class HAProxy(Server):
    """Listens on `port`. `environment` holds the variables that the configuration reads, besides LISTEN."""

    def __init__(self, folder: Path, config: str, **environment: str) -> None:
        super().__init__(folder)
        self.environment = {"LISTEN": f"127.0.0.1:{self.port}", **environment}
        self._config = ROOT / "ops" / config
        self._stats_socket = folder / "stats.sock"
        self._stats_config = folder / "stats.cfg"
        self._stats_config.write_text(f"global\n    stats socket {self._stats_socket}\n")

    def command(self) -> list[str]:
        assert PROGRAM
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *variables, PROGRAM, "-db", "-f", str(self._config), "-f", str(self._stats_config)]

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 2).close()
        except OSError:
            return False
        return self._stats_socket.exists()

    def rows(self) -> list[dict[str, str]]:
        """Return HAProxy's statistics: one row per server and one per backend."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._stats_socket))
            connection.sendall(b"show stat\n")
            with connection.makefile() as file:
                return list(csv.DictReader(line.removeprefix("# ") for line in file if line.strip()))

    def up(self, backend: str) -> set[str]:
        """Return the names of the backend's servers that are up."""
        return {
            row["svname"]
            for row in self.rows()
            if row["pxname"] == backend and row["svname"] not in ("BACKEND", "FRONTEND") and row["status"] == "UP"
        }

    def wait_for(self, backend: str, servers: set[str], seconds: float = 20) -> None:
        assert succeeds_within(seconds, lambda: self.up(backend) == servers), (backend, self.up(backend), servers)

    def requests(self) -> dict[tuple[str, str], int]:
        """Return the number of requests or connections per (backend, server)."""
        return {(row["pxname"], row["svname"]): int(row["stot"]) for row in self.rows()}
