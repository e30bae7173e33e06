"""The worker of `make run`: `manage.py worker` as a child of this small process, which stands beside the server.

Its lines get a prefix, because both log to the same terminal. It stops when the server has ended in any way: the server
holds the other end of the pipe that is this process's stdin. If it dies, that is reported, and the server continues.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PREFIX = b"worker | "
_STOP_TIMEOUT = 5.0  # seconds; then it is killed, and its jobs continue in the next worker
_MANAGE = Path(__file__).resolve().parent.parent / "manage.py"


def start() -> None:
    """Start the worker of the server that will replace this process by `exec`."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    process = subprocess.Popen([sys.executable, "-m", __name__], stdin=reader)
    process.returncode = 0  # it outlives this program, so Popen must not warn that it still runs
    os.close(reader)


def main() -> None:
    worker = subprocess.Popen(
        [sys.executable, str(_MANAGE), "worker"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # Ctrl-C reaches this process and the worker. It ends when the worker has, so that its last lines are not lost. The
    # worker would inherit an ignored signal, so it is started first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_stopping = threading.Event()
    threading.Thread(target=_stop_with_server, args=(worker, is_stopping), daemon=True).start()
    assert worker.stdout
    for line in worker.stdout:
        _write(line)
    code = worker.wait()
    if not is_stopping.is_set():
        _write(f"ended unexpectedly ({code}). The server continues without background jobs.\n".encode())


def _stop_with_server(worker: "subprocess.Popen[bytes]", is_stopping: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1):
            continue
    is_stopping.set()
    worker.terminate()
    try:
        worker.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        worker.kill()


def _write(line: bytes) -> None:
    with contextlib.suppress(OSError):  # a closed terminal must not stop a job
        os.write(sys.stdout.fileno(), _PREFIX + line)


if __name__ == "__main__":
    main()
