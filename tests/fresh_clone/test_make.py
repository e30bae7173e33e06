"""`make run`, `make stop` and `make test` in a fresh clone, in which nothing is installed: `make fresh-clone`.

The tests of a user share a clone. `tests/docs/test_readme.py` runs the commands of the README without the installation.
"""

import os
import re
import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.docs import markdown
from tests.docs.markdown import ROOT
from tests.fresh_clone.clone import OTHER_USER, Clone
from tests.support.dependency_servers import free_port
from tests.support.polling import succeeds_within

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(params=["root", OTHER_USER], scope="module")
def clone(request: pytest.FixtureRequest) -> Iterator[Clone]:
    clone = Clone(user=request.param)
    yield clone
    clone.remove()


def processes_of(clone: Clone) -> list[str]:
    """Return the names of all processes in the clone."""
    return [
        process.info["name"]
        for process in psutil.process_iter(["name", "cwd", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and str(clone.folder) in (process.info["cwd"] or "")
    ]


def test_two_servers_start_at_once_and_stop(clone: Clone) -> None:
    with clone.serving("make", "run") as first, clone.serving("make", "run") as second:  # one installs, the other waits
        for server in (first, second):
            server.wait_until_ready()
            server.log_in()
        assert (first.output() + second.output()).count("Creating .venv") == 1
        third = clone.run("make", "run", BIND=first.url.removeprefix("http://"))
        assert third.stderr.startswith("make run: can't listen on ")
        assert third.returncode == 2
        # make ends by the same signal after its children have. A shell reports 130 and 143.
        assert first.interrupt() == -signal.SIGINT
        second.wait_until_ready()
        assert second.terminate() == -signal.SIGTERM
        for unwanted in ("Traceback", "\r", "\x1b"):  # nothing is animated or coloured in a log
            assert unwanted not in first.output() + second.output()
    stop = clone.run("make", "stop")
    assert (stop.returncode, stop.stdout, stop.stderr) == (0, "stopped postgres\nstopped redis\n", "")
    assert processes_of(clone) == []
    stop = clone.run("make", "stop")
    assert (stop.returncode, stop.stdout) == (0, "")


@pytest.mark.parametrize("clone", ["root"], indirect=True)
def test_run_and_test_in_parallel(clone: Clone) -> None:
    options = "tests/docs/test_links.py"
    with clone.serving("make", "-j2", "run", "test", WORKERS="1", PYTEST_ADDOPTS=options) as make:
        make.wait_until_ready()
        assert succeeds_within(120, lambda: " passed in " in make.output() or " failed" in make.output())
        assert " failed" not in make.output()
        make.wait_until_ready()
        make.log_in()
        assert make.interrupt() == -signal.SIGINT


@pytest.mark.parametrize("clone", ["root"], indirect=True)
def test_first_hour(clone: Clone) -> None:
    """Follow docs/FIRST_HOUR.md."""
    page = (ROOT / "docs" / "FIRST_HOUR.md").read_text()
    run, seed, stop, recover, runserver, check, _ = markdown.console_blocks(page)
    change, test = [code for _, language, code in markdown.FENCE.findall(page) if language == "python"]

    def follow(block: str, url: str = "") -> str:
        done = clone.run("bash", "-e", "-c", block.replace("http://127.0.0.1:8000", url))
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    with clone.serving(*run.split()) as make:
        make.wait_until_ready()
        follow(seed)
        outage = follow(stop, make.url)
        refused = re.findall(r'"(\w+)":\{[^{}]*"reason":"connection_refused"\}', outage)
        assert sorted(refused) == ["migrations", "postgres", "queue", "redis"]
        assert '"status":"healthy"' in outage
        recovery = follow(recover, make.url)
        assert "connection_refused" not in recovery
        assert '"status":"ready"' in recovery
        causes = set(re.findall(r"(\w+): healthy → unhealthy \(connection_refused\)", make.output()))
        assert causes == {"postgres", "redis"}
        make.interrupt()
    views = clone.folder / "voiceassist" / "views.py"
    first_line = change.splitlines(keepends=True)[0]
    assert views.read_text().count(first_line) == 1
    views.write_text(views.read_text().replace(first_line, change))
    (clone.folder / "tests" / "voiceassist" / "test_views.py").write_text(test)
    port = free_port()
    with clone.serving(*runserver.split(), str(port), port=port) as server:
        server.wait_until_ready()
        assert httpx.get(server.url).json()["data"]["links"]["access_review"] == "/admin/access-review/"
    make_check, pytest_command = check.splitlines()
    assert make_check == "make check"  # CI runs it. Here is what it does first:
    assert clone.run("make", ".venv/installed-dev").returncode == 0
    assert " passed in " in follow(pytest_command)
