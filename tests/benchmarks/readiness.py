"""Compare liveness and readiness with the usual packages for health checks: `make benchmark`.

All servers have the same gunicorn settings (2 workers with 4 threads), the same load (8 kept-alive connections), and
the same PostgreSQL and Redis. Ours runs in this environment, the others in one with the packages in peers.txt. The
servers are measured in turn, so that a slower machine affects all of them, and their best rounds are compared. The
medians show how evenly the workers share the connections. Exits 1 if a target is missed.
"""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.servers import ROOT, Peer, Subject, load, memory, run_rounds
from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Postgres, Valkey
from tests.support.voiceassist_server import VoiceAssistServer

# Few and many kept-alive connections: few are often shared unevenly between the workers.
CONNECTIONS = (8, 32, 128)
# A round contains at least one round of checks in each worker.
ROUNDS, SECONDS, COMMAND_ROUNDS = (1, 0.2, 1) if IS_SMOKE else (8, 1.2, 7)
FROZEN_ROUNDS, FROZEN_SECONDS = (1, 0.2) if IS_SMOKE else (3, 3.0)


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


def measure_rates(
    table: Table, ours: VoiceAssistServer, fresh: VoiceAssistServer, bare: Peer, health: Peer, watchman: Peer
) -> None:
    liveness, baseline, ready = (
        {count: Subject(name, server, path, count) for count in CONNECTIONS}
        for name, server, path in (("/health", ours, "/health"), ("bare", bare, "/check"), ("/ready", ours, "/ready"))
    )
    unshared = Subject("/ready, HEALTH_MAX_AGE=0", fresh, "/ready")
    peers = [Subject("django-health-check", health, "/check"), Subject("django-watchman", watchman, "/check")]
    by_connections = [group[count] for count in CONNECTIONS for group in (liveness, baseline, ready)]
    run_rounds([*by_connections, unshared, *peers], ROUNDS, SECONDS)
    for count in CONNECTIONS:
        pair = liveness[count].rate, baseline[count].rate
        table.row(f"/health, responses/s, {count} connections, against a bare JsonResponse", *pair, 0.95)
    measured, live = ready[8], liveness[8]
    table.row("/ready, responses/s, against our /health", measured.rate, live.rate, 0.95)
    table.row("/ready, p99 in ms, against our /health", measured.p99, live.p99, 1.2, at_most=True)
    for peer, target in zip(peers, (20, 10), strict=True):
        table.row(f"/ready, responses/s, against {peer.name}", measured.rate, peer.rate, target)
    table.row("/ready, HEALTH_MAX_AGE=0, against django-health-check", unshared.rate, peers[0].rate, 8)
    smallest = min(memory(health), memory(watchman))
    table.row("memory, PSS in MiB, against the smaller of both", memory(ours), smallest, 0.85, at_most=True)


def measure_frozen(
    table: Table, ours: VoiceAssistServer, postgres: Postgres, redis: Valkey, qdrant: "subprocess.Popen[str]"
) -> None:
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
    pair = statistics.median(frozen), statistics.median(healthy)
    table.row("/health, p99 in ms, every dependency frozen, against all healthy", *pair, 1.5, at_most=True)


def measure(table: Table, postgres: Postgres, redis: Valkey, qdrant: "subprocess.Popen[str]") -> None:
    environment: dict[str, Any] = {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
    with (
        VoiceAssistServer(python=sys.executable, **environment) as ours,
        VoiceAssistServer(python=sys.executable, **environment, HEALTH_MAX_AGE="0") as fresh,
        Peer("bare") as bare,
        Peer("health") as health,
        Peer("watchman") as watchman,
    ):
        measure_rates(table, ours, fresh, bare, health, watchman)
        measure_frozen(table, ours, postgres, redis, qdrant)
    pairs = [(command_time("checkdeps"), command_time("check")) for _ in range(COMMAND_ROUNDS)]
    checkdeps, check = (statistics.median(column) for column in zip(*pairs, strict=True))
    table.row("manage.py checkdeps, seconds, against manage.py check", checkdeps, check, 1.7, at_most=True)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="voiceassist-benchmark-"))
    postgres, redis = Postgres(folder / "postgres"), Valkey(folder / "redis")
    command = [sys.executable, "-m", "tests.benchmarks.qdrant"]
    qdrant = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert qdrant.stdout
    table = Table()
    try:
        postgres.start()
        redis.start()
        os.environ |= {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "QDRANT_URL": f"http://127.0.0.1:{qdrant.stdout.readline().strip()}",
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
