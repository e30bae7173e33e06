"""The installer of the virtual environments, without a network: packages come from a folder of wheels."""

import fcntl
import hashlib
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import exit_code_in_fork
from tests.support.polling import succeeds_within

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
INSTALL: dict[str, Any] = runpy.run_path(str(REQUIREMENTS / "install.py"))


def install(environment: Path, lock: Path, wheels: Path, *included: Path) -> "subprocess.CompletedProcess[str]":
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    command: list[str | Path] = [sys.executable, REQUIREMENTS / "install.py", environment, lock, *included]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """Return the lock of a package `example`, whose wheel is in the same folder. It leaves out a dependency."""
    wheel = tmp_path / "example-1.0-py3-none-any.whl"
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: example\nVersion: 1.0\nRequires-Dist: left-out\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": "[console_scripts]\nexample = example:main\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("example.py", "import sys\n\ndef main() -> None:\n    print(sys.prefix)\n")
        for name, text in metadata.items():
            archive.writestr(f"example-1.0.dist-info/{name}", text)
    lock = tmp_path / "example.txt"
    lock.write_text(f"example==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return lock


def test_uv_uses_the_configuration_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://user:p%40ss@index.example.org/simple\ncert = /etc/ca.pem\n"
        "extra-index-url =\n    https://one.example.org/simple\n    https://two.example.org/simple\n"
        "[install]\ntrusted-host = one.example.org\nno-index = true\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels https://example.org/wheels")
    monkeypatch.setenv("PIP_CERT", "/etc/other.pem")  # variables override files
    options = INSTALL["pip_options"](INSTALL["pip_command"](Path(sys.executable)))
    assert options["no-index"] == "true"
    environment = INSTALL["uv_environment"](options, {"PATH": "/bin"})
    assert environment["UV_DEFAULT_INDEX"] == "https://user:p%40ss@index.example.org/simple"
    assert environment["UV_INDEX"] == "https://one.example.org/simple https://two.example.org/simple"
    assert environment["UV_FIND_LINKS"] == "/wheels,https://example.org/wheels"
    assert environment["UV_INSECURE_HOST"] == "one.example.org"
    assert environment["SSL_CERT_FILE"] == "/etc/other.pem"
    assert environment["PATH"] == "/bin"


def test_variables_of_uv_override_those_of_pip() -> None:
    environment = INSTALL["uv_environment"]({"index-url": "https://pip"}, {"UV_DEFAULT_INDEX": "https://uv"})
    assert environment["UV_DEFAULT_INDEX"] == "https://uv"


@pytest.mark.parametrize("name", ["venv", "venv.new", "venv.old"])
def test_rejects_a_symbolic_link(tmp_path: Path, lock: Path, name: str) -> None:
    target = tmp_path / "target"
    (target / "data").mkdir(parents=True)
    (tmp_path / name).symlink_to(target)
    process = install(tmp_path / "venv", lock, tmp_path)
    assert process.returncode == 1
    assert "is a symbolic link. Remove it" in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert (target / "data").exists()


def test_replaces_an_incomplete_environment_and_falls_back_to_pip(tmp_path: Path, lock: Path) -> None:
    environment = tmp_path / "with space" / "venv"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "incomplete").touch()
    process = install(environment, lock, tmp_path)  # the folder of wheels has no uv
    assert process.returncode == 0, process.stderr
    assert "uv failed. Installing 1 packages" in process.stdout
    assert not (environment / "lib" / "incomplete").exists()
    assert (environment / "installed-example").exists()
    assert [path.name for path in environment.parent.iterdir()] == ["venv"]
    # The environment was built in another folder. Nothing in it names that folder.
    for command in (["bin/example"], ["bash", "-c", ". bin/activate && python -m example && example"]):
        output = subprocess.run(command, cwd=environment, check=True, capture_output=True, text=True).stdout
        assert set(output.split("\n")) == {str(environment), ""}
    assert not subprocess.run(["grep", "-rlI", r"venv\.new", environment], capture_output=True).stdout


def test_ignores_packages_and_options_of_the_user(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "example-1.0-py3-none-any.whl") as archive:
        archive.extractall(tmp_path / "outside")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "outside"))
    monkeypatch.setenv("PIP_USER", "1")
    process = install(tmp_path / "venv", lock, tmp_path)
    assert process.returncode == 0, process.stderr
    subprocess.run([tmp_path / "venv" / "bin" / "python", "-I", "-c", "import example"], check=True)


def test_concurrent_installations_wait_and_keep_the_larger_lock(tmp_path: Path, lock: Path) -> None:
    environment = tmp_path / "venv"
    larger = tmp_path / "larger.txt"
    larger.write_text(lock.read_text())
    descriptor = os.open(REQUIREMENTS, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another installation does
        with ThreadPoolExecutor() as executor:
            future = executor.submit(install, environment, larger, tmp_path, lock)
            try:
                assert succeeds_within(20, lambda: is_waited_for(REQUIREMENTS))
                assert not environment.exists()
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            assert future.result().returncode == 0
    finally:
        os.close(descriptor)
    process = install(environment, lock, tmp_path)
    assert (process.returncode, process.stdout) == (0, "")
    assert (environment / "installed-larger").exists()


def is_waited_for(folder: Path) -> bool:
    """Return whether a process waits for the lock of the folder."""
    inode = f":{folder.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.fixture
def working(tmp_path: Path, lock: Path) -> Path:
    """Return an environment of an earlier version of the lock, as far as the installer can see."""
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "installed-example").touch()
    os.utime(environment / "installed-example", (0, 0))
    return environment


def test_a_failed_installation_keeps_the_environment(tmp_path: Path, lock: Path, working: Path) -> None:
    lock.write_text(re.sub("sha256:.*", f"sha256:{'0' * 64}", lock.read_text()))
    process = install(working, lock, tmp_path)
    assert process.returncode == 1
    assert "Installation failed." in process.stderr
    assert (working / "bin" / "python").exists()
    assert (working / "installed-example").stat().st_mtime == 0  # the next `make` installs again
    assert not (tmp_path / "venv.new").exists()


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["INT", "KILL"])
def test_an_interrupted_installation_keeps_the_environment(
    working: Path, lock: Path, signal_number: int, code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:  # never responds
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        variables = {
            "PIP_INDEX_URL": url,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
            "PATH": os.environ["PATH"],
        }
        command: list[str | Path] = [sys.executable, REQUIREMENTS / "install.py", working, lock]
        process = subprocess.Popen(command, env=variables, start_new_session=True, stdout=subprocess.DEVNULL)
        connection, _ = index.accept()
        with connection:
            os.killpg(process.pid, signal_number)
            assert process.wait(20) == code
    assert (working / "bin" / "python").exists()
    assert (working / "installed-example").stat().st_mtime == 0
    assert (working.with_name("venv.new")).exists() is (signal_number == signal.SIGKILL)


def test_restores_the_environment_of_an_installation_that_was_killed_while_renaming(
    tmp_path: Path, lock: Path, working: Path
) -> None:
    os.utime(working / "installed-example")
    working.rename(tmp_path / "venv.old")
    process = install(working, lock, tmp_path)
    assert (process.returncode, process.stdout) == (0, "")
    assert (working / "bin" / "python").exists()


def test_restores_the_environment_if_interrupted_while_renaming(
    working: Path, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "venv.new":
            raise KeyboardInterrupt
        return rename(path, target)

    def install_and_interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            INSTALL["install"](working, lock)

    monkeypatch.setattr(Path, "rename", interrupted)
    assert exit_code_in_fork(install_and_interrupt) == 0  # a process keeps its lock until it exits
    assert (working / "installed-example").stat().st_mtime == 0
    assert sorted(path.name for path in tmp_path.glob("venv*")) == ["venv"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_uv_shows_its_progress_at_a_terminal(
    working: Path, lock: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    commands: list[tuple[object, ...]] = []
    monkeypatch.setitem(
        INSTALL["install_packages"].__globals__, "run", lambda *command, env=None: commands.append(command)
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    INSTALL["install_packages"](working, lock)
    (sync,) = [command for command in commands if "sync" in command]
    assert ("--quiet" in sync) is not is_terminal
