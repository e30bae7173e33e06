"""Start Python programs by forking a process that has already imported their packages: 0.5 seconds instead of 2.

    ForkedPython(["manage.py", "check"], stdout=PIPE)

is like `subprocess.Popen([sys.executable, "manage.py", "check"], stdout=PIPE)`, with the same signals and exit codes,
and the program is a child of the caller too. The forked process has imported libraries, but neither the settings nor
anything else of the project. Popen's arguments `cwd`, `env`, `stdin`, `stdout`, `stderr` and `text` work.

A test of how Python starts (its options, its variables except PYTHONPATH, closed streams, what is imported, memory)
needs a real start, and so does at least one test of each command.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from tests.support.polling import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]
MAX_MESSAGE = 100_000  # bytes
# Importing these reads no settings and no environment variables, and starts no thread.
PRELOADED = (
    "cryptography.fernet",
    "cryptography.hazmat.primitives.serialization.pkcs12",
    "cryptography.x509",
    "django.contrib.admin",
    "django.contrib.postgres.indexes",
    "django.core.management.commands.migrate",
    "django.db.backends.postgresql.base",
    "django.views.debug",
    "django_redis",
    "django_stubs_ext",
    "opentelemetry.sdk.metrics",
    "redis.asyncio",
    "requests",
    "rest_framework.serializers",
    "rich.table",
    "segno",
    "structlog.dev",
    "xml.dom.minidom",
)
_spawning = Lock()
forking_processes: list["subprocess.Popen[bytes]"] = []  # at most one for each user; they run until this process exits


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, or the thread that started it. Use as `preexec_fn`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class ForkedPython(subprocess.Popen[Any]):
    def __init__(self, args: list[str], *, as_user: Sequence[str] = (), **options: Any) -> None:
        """Start a program. `as_user` are the words in front of a command that run it as another user."""
        self._as_user = tuple(as_user)
        super().__init__([*as_user, sys.executable, *args], **options)

    def _execute_child(self, args: Any, *others: Any) -> None:
        """Private: Popen has created the pipes, and starts the process here."""
        if sys.platform != "linux":
            super()._execute_child(args, *others)  # type: ignore[misc]
            return
        cwd, env, pipes = others[4], others[5], others[9:15]
        child_ends = [pipe if pipe != -1 else number for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        environment = dict(os.environ if env is None else env)
        arguments = [*map(str, args[len(self._as_user) + 1 :])]
        self.pid = _spawn(self._as_user, arguments, str(cwd or Path.cwd()), environment, child_ends)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    args: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    as_user: Sequence[str] = (),
    stdin: str | None = None,
    timeout: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Run a program in the root of the project, as `subprocess.run` does. `environment` replaces that of the tests."""
    pipes = {"stdin": subprocess.DEVNULL if stdin is None else subprocess.PIPE, "stdout": subprocess.PIPE}
    options = {"env": environment, "cwd": ROOT, "text": True, "stderr": subprocess.PIPE, **pipes}
    with ForkedPython(args, as_user=as_user, **options) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout * SLOWNESS)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)


def _spawn(as_user: tuple[str, ...], args: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> int:
    with _spawning:
        channel = _forking_process(as_user)
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: adopt the program when the process between has exited
        try:
            socket.send_fds(channel, [json.dumps([args, cwd, environment]).encode()], streams)
            return int(channel.recv(MAX_MESSAGE))
        finally:
            ctypes.CDLL(None).prctl(36, 0)


@cache
def _forking_process(as_user: tuple[str, ...]) -> socket.socket:
    """Start the process that forks, one for each user. It exits with this process."""
    channel, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*as_user, sys.executable, "-m", "tests.support.forked_python", str(other_end.fileno())]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    with other_end:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[other_end.fileno()])
    forking_processes.append(process)
    atexit.register(_end, channel, process)
    return channel


def _end(channel: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    channel.close()
    process.wait(10 * SLOWNESS)


# In the process that forks


def wait_for_program(channel: socket.socket) -> list[str]:
    """Fork for each request. Return only in the new process, with the arguments of its program."""
    parent = os.getppid()
    while True:
        message, streams, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 3)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        if between := os.fork():
            os.waitpid(between, 0)
            channel.send(os.read(reader, 100))
        elif pid := os.fork():
            os.write(writer, str(pid).encode())
            os._exit(0)
        else:
            while os.getppid() != parent:
                time.sleep(0.001)
            die_with_parent()
            args, cwd, environment = json.loads(message)
            _become(cwd, environment, streams)
            channel.close()
        for descriptor in (*streams, reader, writer):
            os.close(descriptor)
        if not between:
            return list(args)


def _become(cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    # The existing objects know neither whether the new streams are terminals, nor how to encode for them.
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    gc.freeze()  # otherwise the garbage collections of each program copy the memory of all imported modules
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind, *_ = sys.argv[:] = wait_for_program(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if kind == "-c":
        exec(sys.argv.pop(1), {"__name__": "__main__"})
    elif kind == "-m":
        runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(kind, run_name="__main__")
