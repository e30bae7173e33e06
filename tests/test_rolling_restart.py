"""Two servers behind HAProxy under constant load, restarted one after the other: no request is lost."""

import contextlib
import csv
import http.client
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin import Servers
from tests.server import App
from tests.servers import HAPROXY, free_port, needs_haproxy

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 8
DRAIN = 2  # seconds; the balancer looks twice a second


class Load:
    """Clients that each ask again as soon as they are answered, on connections that they keep."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                self.answers[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
            time.sleep(0.005)
        connection.close()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def ports() -> tuple[int, int, int]:
    return free_port(), free_port(), free_port()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Where HAProxy can be asked what it has counted."""
    return tmp_path / "haproxy.sock"


@pytest.fixture
def haproxy(ports: tuple[int, int, int], control: Path, tmp_path: Path) -> Iterator[int]:
    """The configuration that we ship, in front of two ports."""
    assert HAPROXY
    listen, first, second = ports
    addresses = {"LISTEN": f"127.0.0.1:{listen}", "APP1": f"127.0.0.1:{first}", "APP2": f"127.0.0.1:{second}"}
    counting = tmp_path / "counting.cfg"
    counting.write_text(f"global\n    stats socket {control}\n")
    process = subprocess.Popen(
        [HAPROXY, "-db", "-f", ROOT / "ops" / "haproxy.cfg", "-f", counting],
        env={"PATH": os.environ["PATH"], **addresses},
        stdout=subprocess.DEVNULL,
    )
    yield listen
    process.kill()
    process.wait(10)


def counted(control: Path) -> list[dict[str, str]]:
    """Returns HAProxy's rows, one for each server and one for all."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        connection.sendall(b"show stat\n")
        with connection.makefile() as file:
            return list(csv.DictReader(line.removeprefix("# ") for line in file if line.strip()))


def retries(control: Path) -> int:
    """Returns how often HAProxy had to send a request again or elsewhere."""
    return sum(int(row["wretr"]) + int(row["wredis"]) for row in counted(control) if row["svname"] == "BACKEND")


def wait_for(control: Path, servers: int) -> None:
    """Waits until HAProxy sends requests to so many servers."""
    end = time.monotonic() + 20
    while sum(row["status"] == "UP" and row["svname"] != "BACKEND" for row in counted(control)) != servers:
        assert time.monotonic() < end
        time.sleep(0.1)


def reached(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


@needs_haproxy
def test_no_request_is_lost(servers: Servers, ports: tuple[int, int, int], haproxy: int, control: Path) -> None:
    """Nor is one saved by a retry alone, which only a GET may be: the server drains before it closes."""
    environment = {"DRAIN_SECONDS": str(DRAIN), "HEALTH_OPTIONAL": "migrations", "WEB_CONCURRENCY": "2"}
    with contextlib.ExitStack() as stack:

        def start(port: int) -> App:
            return stack.enter_context(App(port=port, **environment))

        running = [start(port) for port in ports[1:]]
        wait_for(control, servers=2)
        with Load(haproxy) as load:
            time.sleep(1)
            for old in running:
                old.terminate()
                assert old.process.wait(30) == 0
                start(old.port)
                wait_for(control, servers=2)
    assert load.lost == []
    assert set(load.answers) == {200}
    assert load.answers[200] > 500
    assert retries(control) == 0


@needs_haproxy
def test_the_world_does_not_see_metrics(servers: Servers, ports: tuple[int, int, int], haproxy: int) -> None:
    with App(port=ports[1], HEALTH_OPTIONAL="migrations"):
        end = time.monotonic() + 15
        while reached(haproxy) != 200 and time.monotonic() < end:
            time.sleep(0.1)
        assert reached(haproxy, "/metrics") == 403
