"""Start every benchmark and the soak test with tiny sizes, so that `make check` notices when one no longer runs.

The results are ignored, because nothing can be measured in a second. Prints the output of a benchmark that fails.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IS_SMOKE = bool(os.environ.get("BENCHMARK_SMOKE"))
COMMANDS = (
    ("data", "--messages", "10000", "--seeding", "1000"),
    ("compare", "HEAD", "--messages", "10000"),
    ("deletion", "--messages", "20000"),
    ("jobs",),
    ("drill", "--messages", "1000"),
    ("layout", "--rows", "1000"),
    ("middleware",),
    ("readiness",),
    ("soak", "--seconds", "1"),
    ("users", "--users", "2000"),
)


def run(name: str, *options: str) -> tuple[str, float, "subprocess.CompletedProcess[str]"]:
    started_at = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *options],
        cwd=ROOT,
        env={**os.environ, "BENCHMARK_SMOKE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return name, time.monotonic() - started_at, process


def main() -> int:
    failures = 0
    with ThreadPoolExecutor(2) as executor:
        for name, seconds, process in executor.map(lambda command: run(*command), COMMANDS):
            print(f"{name:<12} {seconds:5.1f} s  {'FAILED' if process.returncode else 'runs'}", flush=True)
            if process.returncode:
                failures += 1
                print(process.stdout)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
