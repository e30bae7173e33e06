"""Inject random faults into all dependencies under constant probing: `make soak [SECONDS=600] [SEED=1]`.

PostgreSQL, Redis and Qdrant are each behind a proxy that injects one fault at a time. The seed, which is printed,
determines the order. The soak test checks that

    every response of `/ready` arrives within the deadline,
    the report is correct HEALTH_MAX_AGE + HEALTH_TIMEOUT after each fault starts, and after it ends,
    `/health` is always 200,
    the threads, file descriptors and memory of the worker do not grow.

Prints every violation and exits 1 if there is one.
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

from tests.benchmarks.smoke import IS_SMOKE
from tests.support.dependency_servers import Postgres, Valkey
from tests.support.proxy import MODES, Proxy
from tests.support.qdrant_server import QdrantServer
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

TIMEOUT, MAX_AGE = 1.0, 0.5  # seconds: HEALTH_TIMEOUT and HEALTH_MAX_AGE
DEADLINE = TIMEOUT + 0.25  # seconds in which /ready has to respond
NOISE = 0.5  # seconds that a busy machine may add to a response
FAULTS = [mode for mode in MODES if mode not in ("pass", "delay")]
PROBERS = 4
THREADS = 8  # WEB_THREADS
# The pools for probes and static files (gunicorn_worker.py), and the main and readiness threads.
MAX_THREADS = THREADS + 12 + 2 + 2
MAX_MEMORY_GROWTH = 15 * 2**20  # bytes per worker


class Soak:
    def __init__(self, app: VoiceAssistServer, proxies: dict[str, Proxy], random_source: random.Random) -> None:
        self.app, self.proxies, self.random = app, proxies, random_source
        self.violations: list[str] = []
        self.times: list[float] = []
        self.faults: Counter[str] = Counter()
        self._stop = threading.Event()

    def probe(self, path: str) -> None:
        while not self._stop.wait(0.02):
            started_at = time.monotonic()
            try:
                status = self.app.get(path)[0]
            except OSError as error:
                self.violations.append(f"{path}: {error!r}")
                continue
            duration = time.monotonic() - started_at
            if path == "/ready":
                self.times.append(duration)
                if duration > DEADLINE + NOISE:
                    self.violations.append(f"/ready took {duration:.2f} s")
            elif status != 200:
                self.violations.append(f"{path}: {status}")

    def report(self) -> dict[str, Any]:
        envelope = json.loads(self.app.get("/ready")[2])
        dependencies: dict[str, Any] = (envelope["data"] or envelope["error"]["details"])["dependencies"]
        return dependencies

    def expect(self, broken: str | None, fault: str) -> None:
        time.sleep(MAX_AGE + TIMEOUT + 0.1)
        report = self.report()
        for name in self.proxies:
            healthy = report[name]["reason"] is None
            if healthy is (name == broken):
                self.violations.append(f"{fault} of {broken or 'nothing'}: {name} is {report[name]}")

    def run(self, seconds: float) -> None:
        self._stop.clear()
        paths = ["/ready"] * PROBERS + ["/health"]
        threads = [threading.Thread(target=self.probe, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        end_at = time.monotonic() + seconds
        pairs: list[tuple[str, str]] = []
        while time.monotonic() < end_at:
            if not pairs:  # every fault of every dependency occurs before one is repeated
                pairs = [(name, fault) for name in self.proxies for fault in FAULTS]
                self.random.shuffle(pairs)
            name, fault = pairs.pop()
            self.proxies[name].mode = fault
            self.expect(name, fault)
            time.sleep(self.random.uniform(0, 2))
            self.proxies[name].mode = "pass"
            self.expect(None, f"after {fault} of {name}")
            self.faults[fault] += 1
        self._stop.set()
        for thread in threads:
            thread.join()


def resource_usage(worker: psutil.Process) -> tuple[int, int, int]:
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
            with VoiceAssistServer(python=sys.executable, **environment) as app:
                run = Soak(app, {"postgres": a, "redis": b, "qdrant": c}, random.Random(seed))
                (worker,) = app.workers()
                run.run(min(30, seconds / 3))
                before = resource_usage(worker)
                run.run(seconds)
                after = settled_usage(worker, before)
                # The server creates its threads on demand, so they may grow up to their maximum.
                if after[0] > MAX_THREADS or after[1] > before[1] or after[2] > before[2] + MAX_MEMORY_GROWTH:
                    run.violations.append(f"threads, descriptors, bytes grew from {before} to {after}")
                return report_result(run, before, after)
    finally:
        redis.kill()
        postgres.kill()


def settled_usage(worker: psutil.Process, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the usage after the last check has finished and idle connections are closed."""
    deadline = time.monotonic() + 10
    while True:
        usage = resource_usage(worker)
        has_settled = usage[0] <= MAX_THREADS and usage[1] <= before[1]
        if has_settled or time.monotonic() > deadline:
            return usage
        time.sleep(0.2)


def report_result(run: Soak, before: tuple[int, int, int], after: tuple[int, int, int]) -> int:
    times = sorted(run.times)
    print(
        f"{run.faults.total()} faults ({', '.join(f'{n} {fault}' for fault, n in sorted(run.faults.items()))}), "
        f"{len(times)} responses of /ready, slowest {times[-1]:.2f} s (deadline {DEADLINE} s); "
        f"threads {before[0]} → {after[0]}, descriptors {before[1]} → {after[1]}, "
        f"memory {before[2] / 2**20:.1f} → {after[2] / 2**20:.1f} MiB"
    )
    for violation in run.violations[:20]:
        print(f"VIOLATION: {violation}")
    return 1 if run.violations and not IS_SMOKE else 0


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
