"""How the application reaches the primary. Each route is a context manager that yields a DATABASE_URL."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.failover.agent import Agent
from tests.failover.cluster import Cluster, Node
from tests.failover.load import CLIENTS
from tests.support.dependency_servers import (
    PGBOUNCER,
    QUOTED,
    Server,
    accepts_connections,
    unprivileged_command,
    user_list,
)
from tests.support.haproxy import PROGRAM as HAPROXY
from tests.support.voiceassist_server import ROOT

WORKERS = 2  # worker processes of the application
_NAME = "postgres.example"


@dataclass(frozen=True)
class Route:
    url: str
    python: str = sys.executable  # the interpreter that starts the application
    threads: int = CLIENTS // WORKERS  # per worker; few enough that waiting clients can occupy all of them
    extra_seconds: float = 0.0  # that a request and /ready may take longer than promised
    move: Callable[[Node], None] | None = None  # moves the DNS name to a node; other routes find the primary


@contextmanager
def hosts(cluster: Cluster, folder: Path) -> Iterator[Route]:
    """Yield a URL with both servers."""
    servers = ",".join(f"{node.address}:{node.port}" for node in cluster.nodes)
    yield Route(f"postgres://tester:{QUOTED}@{servers}/tests")


class HAProxy(Server):
    """HAProxy in front of both servers, with the configuration in ops/, optionally with another number of `retries`."""

    def __init__(self, folder: Path, cluster: Cluster, *, retries: int = 1) -> None:
        super().__init__(folder)
        shipped = (ROOT / "ops" / "haproxy-postgresql.cfg").read_text()
        assert "    retries 1\n" in shipped
        (folder / "haproxy.cfg").write_text(shipped.replace("    retries 1\n", f"    retries {retries}\n"))
        self.url = f"postgres://tester:{QUOTED}@127.0.0.1:{self.port}/tests"
        first, second = cluster.nodes
        self._environment = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "POSTGRES1": f"{first.address}:{first.port}",
            "POSTGRES2": f"{second.address}:{second.port}",
            "PATRONI_PORT": str(first.agent_port),
        }

    def command(self) -> list[str]:
        assert HAPROXY
        environment = [f"{name}={value}" for name, value in self._environment.items()]
        return ["env", *environment, HAPROXY, "-db", "-f", str(self.folder / "haproxy.cfg")]

    def is_ready(self) -> bool:
        return accepts_connections(self.url)


@contextmanager
def haproxy(cluster: Cluster, folder: Path) -> Iterator[Route]:
    with _started_haproxy(cluster, folder) as server:
        yield Route(server.url)


@contextmanager
def haproxy_retries(cluster: Cluster, folder: Path) -> Iterator[Route]:
    """Use HAProxy's default of three retries, which holds each new connection for 3 s if there is no primary.

    That is longer than the timeout of readiness, so PostgreSQL appears to hang. This route has enough threads for
    probes, which may report the hang for a while after the primary is back.
    """
    with _started_haproxy(cluster, folder, retries=3) as server:
        yield Route(server.url, threads=2 * CLIENTS)


@contextmanager
def _started_haproxy(cluster: Cluster, folder: Path, *, retries: int = 1) -> Iterator[HAProxy]:
    with ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(Agent(cluster, node))
        server = HAProxy(folder / "haproxy", cluster, retries=retries)
        stack.callback(server.kill)
        server.start()
        yield server


class Pooler(Server):
    """PgBouncer with the configuration in ops/, except for names, addresses and files."""

    def __init__(self, folder: Path, upstream: HAProxy) -> None:
        super().__init__(folder)
        self.url = f"postgres://tester:{QUOTED}@127.0.0.1:{self.port}/tests"
        (folder / "users").write_text(user_list())
        (folder / "pgbouncer.ini").write_text(
            f"%include {ROOT / 'ops' / 'pgbouncer.ini'}\n"
            f"listen_port = {self.port}\nauth_file = {folder / 'users'}\n"
            f"[databases]\ntests = host=127.0.0.1 port={upstream.port}\n"
        )

    def command(self) -> list[str]:
        assert PGBOUNCER
        return [*unprivileged_command(self.folder / "no data"), PGBOUNCER, str(self.folder / "pgbouncer.ini")]

    def is_ready(self) -> bool:
        return accepts_connections(self.url)


@contextmanager
def pgbouncer(cluster: Cluster, folder: Path) -> Iterator[Route]:
    """Use PgBouncer in front of HAProxy.

    If packets are dropped and PgBouncer's next connection begins just before HAProxy switches, it waits for
    `server_connect_timeout` again. This was seen in two of twelve runs.
    """
    with _started_haproxy(cluster, folder) as upstream:
        pooler = Pooler(folder / "pgbouncer", upstream)
        try:
            pooler.start()
            yield Route(pooler.url, extra_seconds=3.0)
        finally:
            pooler.kill()


@contextmanager
def dns_name(cluster: Cluster, folder: Path) -> Iterator[Route]:
    """Use a DNS name that leads to the primary and is moved some seconds after a promotion.

    The application runs in its own mount namespace with its own hosts file, which needs root.
    """
    if os.geteuid() != 0:
        pytest.skip("a private hosts file needs root; CI has it")
    folder.mkdir(exist_ok=True)
    hosts_file, python = folder / "hosts", folder / "python"

    def move(node: Node) -> None:
        # Keep the inode, because the file is bind-mounted.
        hosts_file.write_text(f"127.0.0.1 localhost\n{node.address} {_NAME}\n")

    move(cluster.primary)
    python.write_text(
        "#!/bin/sh\nexec unshare --mount --propagation private"
        f""" sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "{hosts_file}" "{sys.executable}" "$@"\n"""
    )
    python.chmod(0o755)
    yield Route(f"postgres://tester:{QUOTED}@{_NAME}:{cluster.primary.port}/tests", str(python), move=move)


ROUTES = {route.__name__: route for route in (hosts, haproxy, haproxy_retries, pgbouncer, dns_name)}
