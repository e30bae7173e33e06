"""Liveness and readiness, measured against what one would take instead, in one run: `make benchmark`.

The same gunicorn settings for all (2 workers of 4 threads), the same load (8 connections), the same PostgreSQL and
Redis, the same packages installed. Subjects take turns, so that a machine that slows down slows all of them; the
medians of the rounds are compared. Exits 1 if a target is missed.
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
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.table import Table
from tests.support.dependency_servers import Postgres, Valkey, free_port
from tests.support.qdrant_server import QdrantServer
from tests.support.voiceassist_server import VoiceAssistServer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "var" / "benchmarks"
LOCK = Path(__file__).with_name("peers.txt")
ROUNDS, SECONDS, CONNECTIONS = 3, 3, 8
GUNICORN = ["--workers", "2", "--threads", "4", "--worker-class", "gthread", "--keep-alive", "75"]


def peers_python() -> Path:
    """Returns the Python that has the peers, installed on first use."""
    python, stamp = FOLDER / "venv/bin/python", FOLDER / "installed"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        venv.create(FOLDER / "venv", with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--require-hashes", "-r", LOCK], check=True)
        stamp.touch()
    return python


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
        end = time.monotonic() + 30
        while not psutil.Process(self.process.pid).children() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1)
        return self

    def __exit__(self, *args: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def load(subject: VoiceAssistServer | Peer, path: str, seconds: float = SECONDS) -> dict[str, float]:
    command = ["-m", "tests.benchmarks.load", str(subject.port), path, str(CONNECTIONS), str(seconds)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    assert found["failed"] == 0, (path, found)
    return found


def memory(subject: VoiceAssistServer | Peer) -> float:
    """Returns the proportional set size of the master and its workers, in MiB."""
    master = psutil.Process(subject.process.pid)
    return sum(process.memory_full_info().pss for process in [master, *master.children()]) / 2**20


def wall(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "manage.py", *words], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


@contextlib.contextmanager
def probing(app: VoiceAssistServer) -> Iterator[None]:
    """Asks `/ready` once a second, as an orchestrator would."""
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
        VoiceAssistServer(python=peers_python(), **environment) as ours,
        VoiceAssistServer(python=peers_python(), **environment, HEALTH_MAX_AGE="0") as fresh,
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
            load(subject, path, 1)
        rates: dict[str, list[float]] = {name: [] for name, _, _ in subjects}
        for _ in range(ROUNDS):
            for name, subject, path in subjects:
                rates[name].append(load(subject, path)["rate"])
        rate = {name: statistics.median(found) for name, found in rates.items()}
        table.row("/health, answers/s, against a bare JsonResponse view", rate["/health"], rate["bare"], 0.75)
        table.row("/ready, answers/s, against django-health-check", rate["/ready"], rate["health-check"], 20)
        table.row("/ready, answers/s, against django-watchman", rate["/ready"], rate["watchman"], 10)
        table.row("/ready, answers/s, against our /health", rate["/ready"], rate["/health"], 0.8)
        table.row(
            "/ready, HEALTH_MAX_AGE=0, against django-health-check", rate["/ready fresh"], rate["health-check"], 5
        )
        for name, peer in (("django-health-check", health_check), ("django-watchman", watchman)):
            table.row(f"memory, PSS in MiB, against {name}", memory(ours), memory(peer), 1.33, at_most=True)

        well, frozen = [], []
        for _ in range(ROUNDS):
            with probing(ours):
                well.append(load(ours, "/health")["p99"] * 1000)
                for server in (postgres, redis):
                    server.freeze()
                qdrant.send_signal(signal.SIGSTOP)
                frozen.append(load(ours, "/health")["p99"] * 1000)
                for server in (postgres, redis):
                    server.thaw()
                qdrant.send_signal(signal.SIGCONT)
            time.sleep(2.5)
        table.row("/health, p99 in ms, every dependency frozen, against all well",
                  statistics.median(frozen), statistics.median(well), 1.5, at_most=True)  # fmt: skip

    pairs = [(wall("checkdeps"), wall("check")) for _ in range(7)]
    ours_wall, theirs_wall = (statistics.median(column) for column in zip(*pairs, strict=True))
    table.row("manage.py checkdeps, seconds, against manage.py check", ours_wall, theirs_wall, 1.7, at_most=True)


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
