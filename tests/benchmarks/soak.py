"""Random faults on all dependencies under constant probing, for ten minutes: `make soak [SECONDS=600] [SEED=1]`.

Each of PostgreSQL, Redis and Qdrant is behind a proxy of the tests. One fault at a time begins, lasts and ends; the
order comes from the seed, which is printed. It is checked that

    every answer of `/ready` comes within the deadline,
    the state is right one reuse and one deadline after each fault has begun, and after it has ended,
    `/health` is always 200,
    threads, file descriptors and memory of the worker end where they began.

Exits 1 and says what was wrong, if anything was.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.support.dependency_servers import Postgres, Valkey
from tests.support.proxy import MODES, Proxy
from tests.support.qdrant_server import QdrantServer
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

TIMEOUT, MAX_AGE = 1.0, 0.5  # seconds: HEALTH_TIMEOUT and HEALTH_MAX_AGE
PROMISED = TIMEOUT + 0.25
NOISE = 0.5  # seconds that a busy machine may add to an answer
FAULTS = [mode for mode in MODES if mode not in ("pass", "delay")]
PROBERS = 4
THREADS = 8  # WEB_THREADS
MAX_THREADS = THREADS + 12 + 2  # with gunicorn_worker.py's for probes, the main one and that of the status page
MOST_MEMORY = 15 * 2**20  # bytes that a worker may have grown by


class Soak:
    def __init__(self, app: VoiceAssistServer, proxies: dict[str, Proxy], chance: random.Random) -> None:
        self.app, self.proxies, self.chance = app, proxies, chance
        self.wrong: list[str] = []
        self.times: list[float] = []
        self.faults: Counter[str] = Counter()
        self._stop = threading.Event()

    def probe(self, path: str) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            try:
                status = self.app.get(path)[0]
            except OSError as error:
                self.wrong.append(f"{path}: {error!r}")
                continue
            took = time.monotonic() - began
            if path == "/ready":
                self.times.append(took)
                if took > PROMISED + NOISE:
                    self.wrong.append(f"/ready took {took:.2f} s")
            elif status != 200:
                self.wrong.append(f"{path}: {status}")

    def report(self) -> dict[str, Any]:
        envelope = json.loads(self.app.get("/ready")[2])
        found: dict[str, Any] = (envelope["data"] or envelope["error"]["details"])["dependencies"]
        return found

    def expect(self, broken: str | None, fault: str) -> None:
        time.sleep(MAX_AGE + TIMEOUT + 0.1)
        report = self.report()
        for name in self.proxies:
            healthy = report[name]["reason"] is None
            if healthy is (name == broken):
                self.wrong.append(f"{fault} of {broken or 'nothing'}: {name} is {report[name]}")

    def run(self, seconds: float) -> None:
        self._stop.clear()
        paths = ["/ready"] * PROBERS + ["/health"]
        threads = [threading.Thread(target=self.probe, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        pairs: list[tuple[str, str]] = []
        while time.monotonic() < end:
            if not pairs:  # each fault of each dependency once, before any comes again
                pairs = [(name, fault) for name in self.proxies for fault in FAULTS]
                self.chance.shuffle(pairs)
            name, fault = pairs.pop()
            self.proxies[name].mode = fault
            self.expect(name, fault)
            time.sleep(self.chance.uniform(0, 2))
            self.proxies[name].mode = "pass"
            self.expect(None, f"after {fault} of {name}")
            self.faults[fault] += 1
        self._stop.set()
        for thread in threads:
            thread.join()


def used(worker: psutil.Process) -> tuple[int, int, int]:
    return worker.num_threads(), worker.num_fds(), worker.memory_full_info().uss


def soak(seconds: float, seed: int, folder: Path) -> int:
    postgres, redis = Postgres(folder / "postgres"), Valkey(folder / "redis")
    try:
        postgres.start()
        redis.start()
        with (
            QdrantServer(api_key="key") as qdrant,
            Proxy(postgres.port) as a,
            Proxy(redis.port) as b,
            Proxy(qdrant.port) as c,
        ):
            environment: dict[str, Any] = {
                "DATABASE_URL": postgres.url.replace(f":{postgres.port}", f":{a.port}"),
                "REDIS_URL": redis.url.replace(f":{redis.port}", f":{b.port}"),
                "QDRANT_URL": f"http://127.0.0.1:{c.port}",
                "QDRANT_API_KEY": "key",
                "HEALTH_TIMEOUT": str(TIMEOUT),
                "HEALTH_MAX_AGE": str(MAX_AGE),
                "HEALTH_OPTIONAL": "migrations",
                "WEB_CONCURRENCY": "1",
                "WEB_THREADS": str(THREADS),
            }
            migrate = [sys.executable, "manage.py", "migrate", "-v0"]
            subprocess.run(migrate, cwd=ROOT, check=True, env={**os.environ, **environment})
            with VoiceAssistServer(**environment) as app:
                run = Soak(app, {"postgres": a, "redis": b, "qdrant": c}, random.Random(seed))
                (worker,) = app.workers()
                run.run(min(30, seconds / 3))
                before = used(worker)
                run.run(seconds)
                after = settled(worker, before)
                # The server's own threads are made when they are first needed: those are no leak.
                if after[0] > MAX_THREADS or after[1] > before[1] or after[2] > before[2] + MOST_MEMORY:
                    run.wrong.append(f"threads, descriptors, bytes: {before}, then {after}")
                return conclude(run, before, after)
    finally:
        redis.kill()
        postgres.kill()


def settled(worker: psutil.Process, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns what it uses when the last check has come back and idle connections are closed."""
    end = time.monotonic() + 10
    while (now := used(worker))[1] > before[1] and time.monotonic() < end:
        time.sleep(0.2)
    return now


def conclude(run: Soak, before: tuple[int, int, int], after: tuple[int, int, int]) -> int:
    times = sorted(run.times)
    print(
        f"{run.faults.total()} faults ({', '.join(f'{n} {fault}' for fault, n in sorted(run.faults.items()))}), "
        f"{len(times)} answers of /ready, slowest {times[-1]:.2f} s (promised {PROMISED} s); "
        f"threads {before[0]} → {after[0]}, descriptors {before[1]} → {after[1]}, "
        f"memory {before[2] / 2**20:.1f} → {after[2] / 2**20:.1f} MiB"
    )
    for wrong in run.wrong[:20]:
        print(f"WRONG: {wrong}")
    return 1 if run.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"{options.seconds:.0f} s, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="voiceassist-soak-") as folder:
        return soak(options.seconds, options.seed, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
