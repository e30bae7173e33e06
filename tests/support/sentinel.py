"""A real Redis group under Sentinel, from the wheel: a primary, a replica and three Sentinels."""

import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.dependency_servers import Server, Valkey
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.proxy import TlsProxy
from voiceassist.embedded.programs import valkey_program

SERVICE = "MyPrimary"  # mixed case, because a client that treats it as a host name would convert it to lower case
DOWN_AFTER = 1.0 * SLOWNESS  # seconds after which Sentinel considers a silent server to be down
# In a URL, "/" and "@" have to be escaped; "," and ":" do not.
PASSWORD, QUOTED = "re:dis,pa/ss@word", "re:dis,pa%2Fss%40word"
SENTINEL_PASSWORD, SENTINEL_QUOTED = "sen:ti,nel/pass+word", "sen:ti,nel%2Fpass%2Bword"


class Redis(Valkey):
    password, quoted = PASSWORD, QUOTED


class Sentinel(Valkey):
    password, quoted = SENTINEL_PASSWORD, SENTINEL_QUOTED

    def __init__(self, folder: Path, primary: int) -> None:
        super().__init__(folder)
        (folder / "sentinel.conf").write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {folder}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER * 1000:.0f}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
        )

    def command(self) -> list[str]:
        return [valkey_program(), str(self.folder / "sentinel.conf"), "--sentinel"]

    def query(self, command: str) -> Any:
        no_retry, timeout = Retry(NoBackoff(), 0), 0.5 * SLOWNESS
        with redis.Redis(port=self.port, password=self.password, socket_timeout=timeout, retry=no_retry) as client:
            return getattr(client, command)(SERVICE) if command != "sentinel_masters" else client.sentinel_masters()


class Group:
    """A context manager that runs the servers. With `context` they also accept TLS, on the ports of `tls_proxies`."""

    def __init__(self, folder: Path, *, context: ssl.SSLContext | None = None) -> None:
        self._stack = ExitStack()
        first, second = Redis(folder / "first"), Redis(folder / "second")
        self.nodes = [first, second]
        self.tls_proxies = self._tls_proxies(self.nodes, context)
        for node, port in zip(self.nodes, self._ports(self.nodes), strict=True):
            node.options = ("--primaryauth", PASSWORD, "--replica-announce-port", str(port))
            node.options += ("--repl-diskless-sync-delay", "0")
        second.options += ("--replicaof", f"127.0.0.1 {self._ports(self.nodes)[0]}")
        self.sentinels = [Sentinel(folder / f"sentinel{n}", self._ports(self.nodes)[0]) for n in range(3)]
        self.tls_proxies |= self._tls_proxies(self.sentinels, context)

    def _tls_proxies(self, servers: Any, context: ssl.SSLContext | None) -> dict[Server, TlsProxy]:
        if context is None:
            return {}
        return {server: TlsProxy(server.port, context, allow_plain=True) for server in servers}

    def _ports(self, servers: Any) -> list[int]:
        return [(self.tls_proxies.get(server) or server).port for server in servers]

    def url(self, *, scheme: str = "redis", options: str = "") -> str:
        sentinels = ",".join(f"127.0.0.1:{port}" for port in self._ports(self.sentinels))
        credentials = f"sentinel_password={SENTINEL_QUOTED}"
        return f"{scheme}+sentinel://:{QUOTED}@{sentinels}/{SERVICE}/0?{credentials}{options}"

    def __enter__(self) -> "Group":
        for proxy in self.tls_proxies.values():
            self._stack.enter_context(proxy)
        for server in (*self.nodes, *self.sentinels):
            self._stack.callback(server.kill)
            server.start()
        assert succeeds_within(30, self.is_settled), self._log()
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    def _log(self) -> str:
        return "\n".join((server.folder / "log").read_text()[-1500:] for server in (*self.nodes, *self.sentinels))

    @property
    def primary(self) -> Redis:
        """Return the server that most of the responding Sentinels consider the primary."""
        ports = []
        for sentinel in self.sentinels:
            try:
                ports.append(sentinel.query("sentinel_masters")[SERVICE]["port"])
            except redis.RedisError:
                continue
        return self.nodes[self._ports(self.nodes).index(max(ports, key=ports.count))]

    def is_settled(self) -> bool:
        """Return whether every Sentinel knows the other Sentinels and the replica, and all of them are up."""
        try:
            for sentinel in self.sentinels:
                state = sentinel.query("sentinel_masters")[SERVICE]
                replicas = sentinel.query("sentinel_slaves")
                if state["num-other-sentinels"] != 2 or state["flags"] != "master" or len(replicas) != 1:
                    return False
                if replicas[0]["flags"] != "slave" or replicas[0]["master-link-status"] != "ok":
                    return False
        except redis.RedisError:
            return False
        return True
