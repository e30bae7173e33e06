"""Install a lock into a virtual environment: `python requirements/install.py .venv requirements/dev.txt`.

The Makefile runs this file with any supported Python before anything else is installed, so it imports the standard
library only. pip installs uv by the hashes in uv.txt. uv then installs the lock by its hashes, about ten times as fast
as pip. If uv fails, pip installs the same lock. The environment itself has no pip, because installing pip would take
longer than installing uv; only a Python without a recent pip installs it there.

The file `installed-NAME` in the environment is newer than NAME.txt when the environment is complete. Without any such
file it is created again, so that an interrupted installation leaves no incomplete environment in use.
"""

import ast
import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

UV_LOCK = Path(__file__).with_name("uv.txt")
# pip's options and the variables that pass them to uv, because uv reads neither pip.conf nor PIP_* variables.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}


def install(environment: Path, lock: Path, *included: Path) -> None:
    """Create the environment if necessary and install exactly the packages of the lock.

    Does nothing if another process has installed it, or a lock that includes it, in the meantime.

    Raises CalledProcessError if neither uv nor pip can install them, FileExistsError if the environment is a symbolic
    link.
    """
    if environment.is_symlink():
        raise FileExistsError(
            f"{environment} is a symbolic link. Remove it and try again, which creates a new environment there."
        )
    with suppress(OSError):  # a file system without locks
        fcntl.flock(os.open(UV_LOCK.parent, os.O_RDONLY), fcntl.LOCK_EX)  # until this process exits
    if is_installed(environment, lock):
        return
    python = environment / "bin" / "python"
    markers = list(environment.glob("installed*"))
    if not markers or not python.exists():
        report(f"Creating {environment} with Python {sys.version.split()[0]}")
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", environment)
    for stale in markers:
        stale.unlink(missing_ok=True)
    count = sum("==" in line for line in lock.read_text().splitlines())
    pip = pip_command(python)
    options = ["-qq", "--no-user", "--disable-pip-version-check", "--require-hashes"]
    pip_install = [*pip, "install", *options, "--requirement"]
    try:
        report("Installing uv")
        run(*pip_install, UV_LOCK, "--only-binary=:all:")
        report(f"Installing {count} packages of {lock}")
        configured = pip_options(pip)
        no_index = ["--no-index"] if "no-index" in configured else []
        sync = ["pip", "sync", "--quiet", "--require-hashes", *no_index, "--python", str(python), str(lock)]
        run(python, "-m", "uv", *sync, env=uv_environment(configured, dict(os.environ)))
    except subprocess.CalledProcessError:
        report(f"uv failed. Installing {count} packages of {lock} with pip, which takes longer")
        # The lock is complete. Without --no-deps, pip would miss what pyproject.toml leaves out of it.
        run(*pip_install, lock, "--no-deps")
    for installed in (lock, *included):
        marker(environment, installed).touch()


def marker(environment: Path, lock: Path) -> Path:
    return environment / f"installed-{lock.stem}"


def is_installed(environment: Path, lock: Path) -> bool:
    """Return whether the marker is as new as the locks, as `make` compares them."""
    changed_at = max(path.stat().st_mtime for path in (lock, UV_LOCK))
    return marker(environment, lock).exists() and marker(environment, lock).stat().st_mtime >= changed_at


def pip_command(python: Path) -> list[str]:
    """Return a command that runs pip for the environment of `python`."""
    base_pip = [sys.executable, "-m", "pip", "--python", str(python)]
    # pip before 22.3 has no --python.
    if find_spec("pip") and subprocess.run([*base_pip, "--version"], capture_output=True).returncode == 0:
        return base_pip
    subprocess.run([python, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    return [str(python), "-m", "pip"]


def pip_options(pip: list[str]) -> dict[str, str]:
    """Return the options that pip.conf files and PIP_* variables set. Variables override files."""
    lines = subprocess.run([*pip, "config", "list"], check=True, capture_output=True, text=True).stdout.splitlines()
    options = {}
    for section in ("global", "install", ":env:"):
        for line in lines:
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                options[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return options


def uv_environment(options: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Return the environment that makes uv use the same indexes, certificates and proxies as pip."""
    derived = {
        # pip selects the best version of all indexes, uv by default the first index that has the package. The hashes
        # in the lock make the order irrelevant for safety.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "true",  # pip trusts the system's certificates
        "UV_PYTHON_DOWNLOADS": "never",
    }
    for option, variable in UV_VARIABLES.items():
        if options.get(option):
            separator = "," if variable == "UV_FIND_LINKS" else " "
            derived[variable] = separator.join(options[option].split())
    return derived | environment


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=env)


def report(step: str) -> None:
    print(f"{step} ...", flush=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # pip would count packages there as installed
    try:
        install(*map(Path, sys.argv[1:]))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"Installation failed. {error}")
    except KeyboardInterrupt:
        sys.exit(130)
