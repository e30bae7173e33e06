"""Compare liveness and readiness with the usual packages for health checks: `make benchmark`.

All servers have the same gunicorn settings (2 workers with 4 threads), the same load (8 connections), and use the same
PostgreSQL and Redis. Ours runs in this environment, and the others in one with the packages in peers.txt. The servers
are measured in turn, so that a slower machine affects all of them, and the medians of the rounds are compared. Exits 1
if a target is missed.
"""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Postgres, Valkey, free_port
from tests.support.qdrant_server import QdrantServer
from tests.support.voiceassist_server import VoiceAssistServer

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "var" / "benchmarks" / "venv"
LOCK = Path(__file__).with_name("peers.txt")
CONNECTIONS = 8
ROUNDS, SECONDS, COMMAND_ROUNDS = (1, 0.2, 1) if IS_SMOKE else (12, 1.0, 7)
FROZEN_ROUNDS, FROZEN_SECONDS = (1, 0.2) if IS_SMOKE else (3, 3.0)
GUNICORN = ["--workers", "2", "--threads", "4", "--worker-class", "gthread", "--keep-alive", "75"]


def peers_python() -> Path:
    """Return the Python of the peers' environment, which is installed on first use."""
    marker = PEERS / f"installed-{LOCK.stem}"
    if not marker.exists() or marker.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([sys.executable, ROOT / "requirements" / "install.py", PEERS, LOCK], cwd=ROOT, check=True)
    return PEERS / "bin" / "python"


class Peer:
    def __init__(self, name: str) -> None:
        self.port = free_port()
        command = [
            "-m",
            "gunicorn",
            *GUNICORN,
            "--bind",
            f"127.0.0.1:{self.port}",
            "tests.benchmarks.peers:application",
        ]
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


def load(subject: VoiceAssistServer | Peer, path: str, seconds: float = SECONDS) -> dict[str, float]:
    command = ["-m", "tests.benchmarks.load", str(subject.port), path, str(CONNECTIONS), str(seconds)]
    process = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(process.stdout)
    assert result["failed"] == 0, (path, result)
    return result


def memory(subject: VoiceAssistServer | Peer) -> float:
    """Return the proportional set size of the master and its workers, in MiB."""
    master = psutil.Process(subject.process.pid)
    return sum(process.memory_full_info().pss for process in [master, *master.children()]) / 2**20


def command_time(*arguments: str) -> float:
    """Return the seconds that a `manage.py` command takes."""
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started_at


@contextlib.contextmanager
def probing(app: VoiceAssistServer) -> Iterator[None]:
    """Request `/ready` once a second, like an orchestrator."""
    stop = threading.Event()

    def probe() -> None:
        while not stop.wait(1):
            app.get("/ready")

    thread = threading.Thread(target=probe)
    thread.start()
    yield
    stop.set()
    thread.join()


def measure(table: Table, postgres: Postgres, redis: Valkey, qdrant: "subprocess.Popen[str]") -> None:
    environment: dict[str, Any] = {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
    with (
        VoiceAssistServer(python=sys.executable, **environment) as ours,
        VoiceAssistServer(python=sys.executable, **environment, HEALTH_MAX_AGE="0") as fresh,
        Peer("bare") as bare,
        Peer("health") as health_check,
        Peer("watchman") as watchman,
    ):
        subjects: list[tuple[str, VoiceAssistServer | Peer, str]] = [
            ("/health", ours, "/health"),
            ("bare", bare, "/check"),
            ("/ready", ours, "/ready"),
            ("/ready fresh", fresh, "/ready"),
            ("health-check", health_check, "/check"),
            ("watchman", watchman, "/check"),
        ]
        for _, subject, path in subjects:
            load(subject, path, min(1, SECONDS))  # warm up
        rates: dict[str, list[float]] = {name: [] for name, _, _ in subjects}
        for _ in range(ROUNDS):
            for name, subject, path in subjects:
                rates[name].append(load(subject, path)["rate"])
        # Of the best round. In others one worker has accepted all connections, which halves the rate of any server.
        rate = {name: max(samples) for name, samples in rates.items()}
        table.row("/health, responses/s, against a bare JsonResponse view", rate["/health"], rate["bare"], 0.75)
        table.row("/ready, responses/s, against django-health-check", rate["/ready"], rate["health-check"], 20)
        table.row("/ready, responses/s, against django-watchman", rate["/ready"], rate["watchman"], 10)
        table.row("/ready, responses/s, against our /health", rate["/ready"], rate["/health"], 0.8)
        table.row(
            "/ready, HEALTH_MAX_AGE=0, against django-health-check", rate["/ready fresh"], rate["health-check"], 5
        )
        for name, peer in (("django-health-check", health_check), ("django-watchman", watchman)):
            table.row(f"memory, PSS in MiB, against {name}", memory(ours), memory(peer), 1.33, at_most=True)

        healthy, frozen = [], []
        for _ in range(FROZEN_ROUNDS):
            with probing(ours):
                healthy.append(load(ours, "/health", FROZEN_SECONDS)["p99"] * 1000)
                for server in (postgres, redis):
                    server.freeze()
                qdrant.send_signal(signal.SIGSTOP)
                frozen.append(load(ours, "/health", FROZEN_SECONDS)["p99"] * 1000)
                for server in (postgres, redis):
                    server.thaw()
                qdrant.send_signal(signal.SIGCONT)
            time.sleep(2.5)  # until the checks of the frozen servers have ended
        table.row("/health, p99 in ms, every dependency frozen, against all healthy",
                  statistics.median(frozen), statistics.median(healthy), 1.5, at_most=True)  # fmt: skip

    pairs = [(command_time("checkdeps"), command_time("check")) for _ in range(COMMAND_ROUNDS)]
    checkdeps, check = (statistics.median(column) for column in zip(*pairs, strict=True))
    table.row("manage.py checkdeps, seconds, against manage.py check", checkdeps, check, 1.7, at_most=True)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="voiceassist-benchmark-"))
    postgres, redis = Postgres(folder / "postgres"), Valkey(folder / "redis")
    qdrant = subprocess.Popen(
        [sys.executable, "-c", f"from {QdrantServer.__module__} import QdrantServer as Q\n"
         "with Q(api_key='key') as q: print(q.port, flush=True); q.stopping.wait()"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert qdrant.stdout
    table = Table()
    try:
        postgres.start()
        redis.start()
        os.environ |= {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "QDRANT_URL": f"http://127.0.0.1:{qdrant.stdout.readline().strip()}",
            "QDRANT_API_KEY": "key",
        }
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, check=True)
        measure(table, postgres, redis, qdrant)
    finally:
        qdrant.kill()
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
