"""A worker for background jobs, run as production runs it: `manage.py worker` in its own process, on a free port."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from tests.support.dependency_servers import free_port
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import ROOT


class WorkerProcess:
    """A context manager that runs a worker. `environment` is added to that of the tests."""

    def __init__(self, *, port: int = 0, **environment: str) -> None:
        self.port = port or free_port()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}  # pytest's
        self._environment = {**inherited, "LOG_FORMAT": "json", **environment}

    def __enter__(self) -> "WorkerProcess":
        command = [sys.executable, "manage.py", "worker", "--bind", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            command, env=self._environment, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT
        )
        is_running = succeeds_within(60, lambda: self.process.poll() is not None or self.get("/health")[0] == 200)
        assert is_running and self.process.poll() is None, self.log()
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._log.close()

    def get(self, path: str, *, token: str = "") -> tuple[int, str]:
        """Return the status, 0 if there is no response, and the body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> int:
        """Send SIGTERM, wait and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()
