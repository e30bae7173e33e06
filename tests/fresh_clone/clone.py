"""A copy of the tree in a path with spaces, owned by root or another user; `make` installs and runs the server."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.clone import copy_tree
from tests.support.polling import succeeds_within
from tests.support.server_process import free_port, read_log

INSTALL_TIMEOUT = 300  # seconds; downloads packages
STOP_TIMEOUT = 30  # seconds
OTHER_USER = "nobody"
_LOGIN = re.compile(r"Log in to the admin as (\S+) with password (\S+)")


class Clone:
    def __init__(self, *, user: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fresh clone of ")) / "voice assist"
        copy_tree(self.folder)
        # Packages come from where pip and uv of this machine find them.
        inherited = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
        self.environment = {**inherited, "PATH": os.environ["PATH"], "WEB_CONCURRENCY": "1"}
        self._as_user: list[str] = []
        if user == "root":
            self.environment["HOME"] = str(Path.home())  # with uv's cache
        else:
            self._give_to(pwd.getpwnam(user))

    def _give_to(self, user: pwd.struct_passwd) -> None:
        top = self.folder.parent
        for path in (top, *top.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        # Other users can't enter the home of root, where its Python may be.
        self.environment |= {"HOME": str(top), "PATH": "/usr/local/bin:/usr/bin:/bin"}

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment)
        stdout, stderr = process.communicate(timeout=INSTALL_TIMEOUT)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def start(self, *arguments: str, stdout: Any, stderr: Any, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self._as_user, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    @contextmanager
    def serving(self, *arguments: str, port: int = 0, **environment: str) -> Iterator["Server"]:
        """Run a command that serves, with a port in BIND. Kill it with its children at the end if it still runs."""
        port = port or free_port()
        with tempfile.NamedTemporaryFile() as log:
            process = self.start(*arguments, stdout=log, stderr=log, BIND=f"127.0.0.1:{port}", **environment)
            try:
                yield Server(process, f"http://127.0.0.1:{port}", log.name)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)

    def remove(self) -> None:
        self.run("make", "stop")
        shutil.rmtree(self.folder.parent)


class Server:
    """A running `make run` or `manage.py runserver`."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, log: str) -> None:
        self.process, self.url, self._log = process, url, log

    def output(self) -> str:
        return read_log(self._log)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + INSTALL_TIMEOUT
        while True:
            try:
                if httpx.get(f"{self.url}/ready", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.2)

    def log_in(self) -> None:
        """Log in through the form with the login that `make run` has printed."""
        match = _LOGIN.search(self.output())
        assert match, self.output()
        with httpx.Client(base_url=self.url, timeout=30) as client:
            client.get("/admin/login/")
            form = {"username": match[1], "password": match[2], "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            response = client.post("/admin/login/?next=/admin/", data=form)
            assert (response.status_code, response.headers["Location"]) == (302, "/admin/")
            assert "Log out" in client.get("/admin/").text

    def interrupt(self) -> int:
        """Press Ctrl-C, which reaches the whole process group. Return the exit code of make."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self._wait()

    def terminate(self) -> int:
        """Send SIGTERM to make only, as a supervisor does. Return its exit code."""
        self.process.terminate()
        return self._wait()

    def _wait(self) -> int:
        """Wait until all processes that it started have ended, except the embedded servers."""
        code = self.process.wait(STOP_TIMEOUT)
        assert succeeds_within(STOP_TIMEOUT, lambda: not _group_exists(self.process.pid)), self.output()
        return code


def _group_exists(number: int) -> bool:
    try:
        os.killpg(number, 0)
        return True
    except ProcessLookupError:
        return False
