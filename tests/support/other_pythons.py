"""Run the fast tests on every other supported Python of this machine: `make test-pythons`.

Each Python gets a new environment with the same lock, which is removed afterwards. Exits 1 if a test fails.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "var" / "pythons"
LOCK = ROOT / "requirements" / "dev.txt"
SUPPORTED = ("3.11", "3.12", "3.13")


def candidates(version: str) -> Iterator[str | Path]:
    """Yield the programs that may be this version of Python. Those of pyenv need not be on the PATH."""
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)


def find_python(version: str) -> str | Path | None:
    """Return a program that is this version of Python. Those of pyenv on the PATH may run no Python."""
    print_version = ["-c", "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"]
    for python in candidates(version):
        process = subprocess.run([python, *print_version], capture_output=True, text=True)
        if process.returncode == 0 and process.stdout.strip() == version:
            return python
    return None


def run_tests(python: str | Path, version: str) -> bool:
    environment = ENVIRONMENTS / version
    try:
        subprocess.run([python, ROOT / "requirements" / "install.py", environment, LOCK], cwd=ROOT, check=True)
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2", "--dist", "loadfile"]
        return subprocess.run([environment / "bin" / "python", *command], cwd=ROOT).returncode == 0
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def main() -> int:
    failed = False
    for version in SUPPORTED:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not found on this machine, not tested", flush=True)
            continue
        print(f"Python {version}: {python}", flush=True)
        failed |= not run_tests(python, version)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
