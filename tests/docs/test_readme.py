"""The console blocks of README.md work in a fresh clone, as they are written.

The clone uses the packages of the virtual environment that runs the tests, so that nothing is downloaded. Blocks that
need Docker or download packages are not run; `NOT_RUN` lists them. `make fresh-clone` tests the installation.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.docs import markdown
from tests.docs.markdown import ROOT
from tests.support.clone import copy_tree
from tests.support.dependency_servers import free_port
from tests.support.load_settings import KEY
from tests.support.plugin import API_KEY, Servers
from tests.support.polling import SLOWNESS

README = (ROOT / "README.md").read_text()
START_TIMEOUT, STOP_TIMEOUT = 200, 60  # seconds
NOT_RUN = ("docker compose ", "python3 -m venv ")  # first words of the blocks


def blocks(section: str) -> list[str]:
    """Return the console blocks of a section that can be run here."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [block for block in markdown.console_blocks(text) if not block.startswith(NOT_RUN)]


class Clone:
    """A copy of the tree without anything that a first run creates."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "BIND": f"127.0.0.1:{self.port}",
            **environment,
        }
        copy_tree(folder)
        self._link_packages()

    def _link_packages(self) -> None:
        venv = self.folder / ".venv"
        venv.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith("installed"):
                (venv / entry.name).symlink_to(entry)
        # make compares the time of these files with that of the requirements.
        for marker in set(re.findall(r"\.venv/(installed[\w-]*)", (ROOT / "Makefile").read_text())):
            (venv / marker).touch()

    def _command(self, block: str) -> list[str]:
        return ["bash", "-e", "-c", block.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")]

    def run(self, block: str) -> str:
        done = subprocess.run(
            self._command(block), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serving(self, block: str) -> Iterator[None]:
        """Run a block whose last command serves, and stop it with Ctrl-C."""
        with (self.folder / "server.log").open("w+") as log:
            process = subprocess.Popen(
                self._command(block),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                self._wait_for_health(process, Path(log.name))
                yield
            finally:
                self._stop(process, Path(log.name))

    def _stop(self, process: subprocess.Popen[bytes], log: Path) -> None:
        if process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT * SLOWNESS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"Ctrl-C did not stop it. {log.read_text()}")

    def _wait_for_health(self, process: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + START_TIMEOUT * SLOWNESS
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                return
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            finally:
                connection.close()


pytestmark = pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment to link")


def assert_newcomer_finds_all_pages(clone: Clone) -> None:
    """The index leads to the admin, the status page and the API documentation, which says what does not exist yet."""
    with httpx.Client(base_url=f"http://127.0.0.1:{clone.port}", follow_redirects=True) as client:
        links = client.get("/").json()["data"]["links"]
        pages = {name: client.get(path) for name, path in links.items()}
        assert all(page.status_code == 200 for page in pages.values())
        assert "Log in" in pages["admin"].text and "Log in" in pages["status"].text
        assert links["schema"] in client.get(f"{links['docs']}?script=").text
        assert "There is no API for conversations yet." in pages["schema"].text


def test_quick_start_and_command_line(tmp_path: Path) -> None:
    serve, requests, stop = blocks("Quick start")
    clone = Clone(tmp_path / "clone")
    try:
        with clone.serving(serve):
            output = clone.run(requests)
            assert re.search('"status": ?"(ready|degraded)"', output)  # the worker may still be starting
            assert_newcomer_finds_all_pages(clone)
            for block in blocks("Command line"):
                assert "healthy" in clone.run(block)
    finally:
        clone.run(stop)


def test_running_in_production(tmp_path: Path, servers: Servers) -> None:
    create_secrets, serve = blocks("Running in production")
    servers.postgres.execute("CREATE DATABASE readme")
    clone = Clone(
        tmp_path / "clone",
        VOICEASSIST_ENV="production",
        SECRET_KEY=KEY,
        ALLOWED_HOSTS="127.0.0.1",
        DATABASE_URL=servers.postgres.url.replace("/tests", "/readme"),  # one role for both commands
        REDIS_URL=servers.redis.url,
        QDRANT_URL=servers.qdrant.url,
        QDRANT_API_KEY=API_KEY,
    )
    assert "created secrets/SECRET_KEY" in clone.run(create_secrets)
    with clone.serving(serve):
        assert list(clone.folder.glob("staticfiles/admin/css/base.*.css.br"))  # other tests don't compress them


def test_every_block_is_run_or_listed() -> None:
    run = {*blocks("Quick start"), *blocks("Command line"), *blocks("Running in production")}
    left = [block for block in markdown.console_blocks(README) if block not in run]
    assert [block for block in left if not block.startswith(NOT_RUN)] == []
