"""`make run`, `make stop` and `make test` in a fresh clone, in which nothing is installed: `make fresh-clone`.

`tests/docs/test_readme.py` runs the commands of the README, without the installation.
"""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.fresh_clone.clone import OTHER_USER, Clone
from tests.support.polling import succeeds_within

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(params=["root", OTHER_USER])
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
    with clone.making("run") as first, clone.making("run") as second:  # one installs, the other waits
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
        assert "Traceback" not in first.output() + second.output()
    stop = clone.run("make", "stop")
    assert (stop.returncode, stop.stdout, stop.stderr) == (0, "stopped postgres\nstopped redis\n", "")
    assert processes_of(clone) == []
    stop = clone.run("make", "stop")
    assert (stop.returncode, stop.stdout) == (0, "")


@pytest.mark.parametrize("clone", ["root"], indirect=True)
def test_run_and_test_in_parallel(clone: Clone) -> None:
    with clone.making("-j2", "run", "test", WORKERS="1", PYTEST_ADDOPTS="tests/docs/test_links.py") as make:
        make.wait_until_ready()
        assert succeeds_within(120, lambda: " passed in " in make.output() or " failed" in make.output())
        assert " failed" not in make.output()
        make.wait_until_ready()
        make.log_in()
        assert make.interrupt() == -signal.SIGINT
