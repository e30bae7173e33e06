"""Install a lock into a virtual environment: `python requirements/install.py .venv requirements/dev.txt`.

The Makefile runs this file with any supported Python before anything else is installed, so it imports the standard
library only. pip installs uv by the hashes in uv.txt. uv then installs the lock by its hashes, about ten times as fast
as pip. If uv fails, pip installs the same lock. The environment itself has no pip, because installing pip would take
longer than installing uv; only a Python without a recent pip installs it there.

A new environment is built in `.venv.new` and renamed to `.venv` when it is complete. So an installation that fails or
is interrupted leaves the old environment as it was. uv links most files from its cache, so this takes hardly longer
than changing the environment. The file `installed-NAME` in an environment is newer than NAME.txt if the environment has
the packages of this NAME.txt.
"""

import ast
import fcntl
import os
import shutil
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
    """Replace the environment by a new one that has exactly the packages of the lock.

    Does nothing if another process has installed it, or a lock that includes it, in the meantime.

    Raises CalledProcessError if neither uv nor pip can install them, FileExistsError if the environment, or the
    folder beside it that ends in `.new` or `.old`, is a symbolic link.
    """
    old, new = (environment.with_name(f"{environment.name}.{suffix}") for suffix in ("old", "new"))
    for folder in (environment, old, new):
        if folder.is_symlink():  # `venv --clear` would empty the target of `.new`
            raise FileExistsError(
                f"{folder} is a symbolic link. Remove it and try again, which creates a new environment."
            )
    with suppress(OSError):  # a file system without locks
        fcntl.flock(os.open(UV_LOCK.parent, os.O_RDONLY), fcntl.LOCK_EX)  # until this process exits
    if old.exists() and not environment.exists():
        old.rename(environment)  # an earlier installation was killed between the two renames below
    if is_installed(environment, lock):
        return
    report(f"Creating {environment} with Python {sys.version.split()[0]}")
    try:
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", "--prompt", environment.name, new)
        install_packages(new, lock)
        for installed in (lock, *included):
            marker(new, installed).touch()
        change_paths(new, environment)
        shutil.rmtree(old, ignore_errors=True)
        if environment.exists():
            environment.rename(old)
        new.rename(environment)
    finally:
        if old.exists() and not environment.exists():
            old.rename(environment)  # interrupted between the two renames
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def install_packages(environment: Path, lock: Path) -> None:
    count = sum("==" in line for line in lock.read_text().splitlines())
    python = environment / "bin" / "python"
    pip = pip_command(python)
    options = ["-qq", "--no-user", "--disable-pip-version-check", "--require-hashes"]
    pip_install = [*pip, "install", *options, "--requirement"]
    try:
        report("Installing uv")
        run(*pip_install, UV_LOCK, "--only-binary=:all:")
        report(f"Installing {count} packages of {lock}")
        configured = pip_options(pip)
        no_index = ["--no-index"] if "no-index" in configured else []
        # uv shows the progress of downloads at a terminal.
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        sync = ["pip", "sync", *quiet, "--require-hashes", *no_index, "--python", str(python), str(lock)]
        run(python, "-m", "uv", *sync, env=uv_environment(configured, dict(os.environ)))
    except subprocess.CalledProcessError:
        report(f"uv failed. Installing {count} packages of {lock} with pip, which takes longer")
        # The lock is complete. Without --no-deps, pip would miss what pyproject.toml leaves out of it.
        run(*pip_install, lock, "--no-deps")


def change_paths(folder: Path, final: Path) -> None:
    """Replace the path of the folder by the final one in its configuration and in the scripts of its packages."""
    before, after = (os.fsencode(path.absolute()) for path in (folder, final))
    for file in (folder / "pyvenv.cfg", *(folder / "bin").iterdir()):
        content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        if before in content and b"\0" not in content:  # programs such as ruff do not know their path
            file.write_bytes(content.replace(before, after))  # keeps the mode


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
