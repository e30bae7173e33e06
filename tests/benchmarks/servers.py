"""The servers that `tests.benchmarks.readiness` compares, and how much they serve: the peers, load, and memory."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.dependency_servers import free_port
from tests.support.voiceassist_server import VoiceAssistServer

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "var" / "benchmarks" / "venv"
LOCK = Path(__file__).with_name("peers.txt")
GUNICORN = ["--workers", "2", "--threads", "4", "--worker-class", "gthread", "--keep-alive", "75"]


def peers_python() -> Path:
    """Return the Python of the peers' environment, which is installed on first use."""
    marker = PEERS / f"installed-{LOCK.stem}"
    if not marker.exists() or marker.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([sys.executable, ROOT / "requirements" / "install.py", PEERS, LOCK], cwd=ROOT, check=True)
    return PEERS / "bin" / "python"


class Peer:
    """A project in `tests/benchmarks/peers.py`, served with the same settings of gunicorn as ours."""

    def __init__(self, name: str) -> None:
        self.port = free_port()
        bind = ["--bind", f"127.0.0.1:{self.port}"]
        command = ["-m", "gunicorn", *GUNICORN, *bind, "tests.benchmarks.peers:application"]
        environment = {**os.environ, "PEER": name}
        self.process = subprocess.Popen(
            [peers_python(), *command], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> "Peer":
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "The peer failed to start."
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/check"):
                return self
            time.sleep(0.1)
        raise AssertionError("The peer does not respond.")

    def __exit__(self, *args: object) -> None:
        self.process.terminate()
        self.process.wait(20)


Server = VoiceAssistServer | Peer


def load(server: Server, path: str, seconds: float, connections: int = 8) -> dict[str, float]:
    """Return what `tests.benchmarks.load` measured. It opens new connections, so each call balances them anew."""
    command = ["-m", "tests.benchmarks.load", str(server.port), path, str(connections), str(seconds)]
    process = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(process.stdout)
    assert result["failed"] == 0, (path, result)
    return result


def memory(server: Server) -> float:
    """Return the proportional set size of the master and its workers, in MiB."""
    master = psutil.Process(server.process.pid)
    return sum(process.memory_full_info().pss for process in [master, *master.children()]) / 2**20


@dataclass
class Subject:
    """A path of a server under the load of some connections, and the results of the rounds so far."""

    name: str
    server: Server
    path: str
    connections: int = 8
    results: list[dict[str, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Responses per second in the best round, which other programs disturbed least."""
        return max(result["rate"] for result in self.results)

    @property
    def median_rate(self) -> float:
        return statistics.median(result["rate"] for result in self.results)

    @property
    def p99(self) -> float:
        """Milliseconds in the best round."""
        return min(result["p99"] for result in self.results) * 1000


def run_rounds(subjects: Sequence[Subject], rounds: int, seconds: float) -> None:
    """Load each subject once per round, so that a slow phase of the machine affects all. Print best and median."""
    for subject in subjects:
        load(subject.server, subject.path, min(1, seconds))  # warm up
    for _ in range(rounds):
        for subject in subjects:
            subject.results.append(load(subject.server, subject.path, seconds, subject.connections))
    print(f"{'subject':<28} {'connections':>11} {'best/s':>8} {'median/s':>8} {'p99 ms':>8}")
    for subject in subjects:
        figures = f"{subject.rate:8.0f} {subject.median_rate:8.0f} {subject.p99:8.2f}"
        print(f"{subject.name:<28} {subject.connections:11} {figures}", flush=True)
