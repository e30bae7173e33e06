"""Our server, run as production runs it: gunicorn in its own processes, on a free port."""

import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from sysconfig import get_path
from typing import Any

import httpx
import psutil

from tests.support.databases import database_with_staff as database_with_staff
from tests.support.forked_python import ForkedPython, die_with_parent, run
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.processes import has_ended
from tests.support.server_process import free_port, read_log

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 30.0 * SLOWNESS  # seconds


@cache
def collect_static_files() -> None:
    """Collect the static files of this checkout, without which production does not start, unless they are current.

    Other test processes, whose servers use these files, wait meanwhile. The test of the README collects them as
    production does.
    """
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.support.static_settings",
        "VOICEASSIST_ENV": "production",
        "SECRET_KEY": "only-for-collectstatic-which-signs-nothing-and-connects-to-no-server",
        "ALLOWED_HOSTS": "localhost",
        # It connects to no server.
        "DATABASE_URL": "postgres://localhost/none",
        "REDIS_URL": "redis://localhost",
        "QDRANT_URL": "http://localhost:6333",
    }
    manifest = ROOT / "staticfiles" / "staticfiles.json"  # written last
    sources = [ROOT / "voiceassist" / "settings.py", Path(get_path("purelib")), *ROOT.glob("*/static/**/*")]
    with (ROOT / "manage.py").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not manifest.exists() or manifest.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            done = run(["manage.py", "collectstatic", "--noinput", "--verbosity", "0"], environment)
            assert done.returncode == 0, done.stderr


class VoiceAssistServer:
    """A context manager that runs the server, in the current folder `cwd`.

    `options` are gunicorn's. `environment` is added to that of the tests, and may contain BIND. `python` is the program
    to start, by default a fork (`tests.support.forked_python`), which takes 1.5 seconds less.
    """

    def __init__(
        self,
        *options: str,
        python: str | Path | None = None,
        port: int = 0,
        config: str = "voiceassist/gunicorn.py",
        application: str = "voiceassist.wsgi:application",
        cwd: str | Path = ROOT,
        **environment: str,
    ) -> None:
        self._python = python
        self._config, self._application, self._options, self._cwd = config, application, options, cwd
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="voiceassist-server-"))  # TMPDIR of the server
        self.process: subprocess.Popen[Any]
        self._log = (self.folder / "log").open("w")
        defaults = {"LOG_FORMAT": "json", "WEB_CONCURRENCY": "2", "TMPDIR": str(self.folder)}
        inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}  # pytest's
        self._environment = {**inherited, **defaults, **environment}

    def __enter__(self) -> "VoiceAssistServer":
        if self._environment.get("VOICEASSIST_ENV") == "production":
            collect_static_files()
        command = ["-m", "gunicorn", "-c", self._config, *self._options, self._application]
        bind = [] if "BIND" in self._environment else ["--bind", f"127.0.0.1:{self.port}"]
        options: dict[str, Any] = {"env": self._environment, "cwd": self._cwd, "preexec_fn": die_with_parent}
        options |= {"stdout": self._log, "stderr": subprocess.STDOUT}
        if self._python is None:
            self.process = ForkedPython([*command, *bind], **options)
        else:
            self.process = subprocess.Popen([self._python, *command, *bind], **options)
        try:
            self._wait_for_health()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_for_health(self) -> None:
        end = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.get("/health")
                return
            except OSError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.05)

    def __exit__(self, *args: object) -> None:
        workers = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # otherwise it could start a worker meanwhile
            workers = self.workers()
            for worker in workers:
                worker.kill()
            self.process.kill()
        self.process.wait(10 * SLOWNESS)
        assert succeeds_within(10, lambda: all(map(has_ended, workers)))  # they write to the folders
        self._log.close()
        for folder in [self.folder, *self.runtime_folders()]:
            shutil.rmtree(folder)

    def get(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, timeout: float = 10
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request on a new connection. Raise OSError or http.client.HTTPException if there is no response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def log_in(self, email: str, password: str) -> httpx.Client:
        """Return an HTTP client that is logged in to the admin."""
        client = httpx.Client(base_url=self.url, timeout=30)
        client.get("/admin/login/")
        form = {"username": email, "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/?next=/admin/", data=form).status_code == 302
        assert client.get("/admin/").status_code == 200  # also sets the access cookie of the status page
        return client

    def wait_for_checks(self) -> None:
        """Wait until every worker has finished the checks of its start.

        A request for /ready that joins them reports the state before a change that the test has made meanwhile.
        """
        (folder,) = self.runtime_folders()

        def are_finished() -> bool:
            states = [json.loads(path.read_text()) for path in folder.glob("state_*.json")]
            return sum(bool(state["checked_at"]) for state in states) == int(self._environment["WEB_CONCURRENCY"])

        assert succeeds_within(30, are_finished), self.log()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def runtime_folders(self) -> list[Path]:
        """Return the runtime folder that the server has, if any."""
        name = f"voiceassist-runtime-{self.process.pid}-*"
        return [*self.folder.glob(name), *Path("/dev/shm").glob(name)]

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def connections(self, worker: psutil.Process) -> list[Any]:
        """Return the worker's connections with clients, without those to its dependencies."""
        return [item for item in worker.net_connections() if item.laddr.port == self.port and item.raddr]

    def log(self) -> str:
        return read_log(self._log.name)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines()]

    def log_messages(self) -> list[str]:
        return [line["message"] for line in self.log_lines()]
