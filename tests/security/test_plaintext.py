"""A man in the middle reads nothing of the connections to PostgreSQL, Redis and Qdrant in production.

The attacker is a proxy at 127.1, another form of 127.0.0.1 which the settings treat as any other host. Each attack is
also made on a configuration that accepts the risk, to show that the attacker can read what is not protected.
"""

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from tests.support.dependency_servers import PASSWORD, QUOTED
from tests.support.load_settings import PRODUCTION
from tests.support.plugin import API_KEY, Servers
from tests.support.tcp_server import TcpServer
from tests.voiceassist.test_settings import SERVER, run

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # libpq's question whether the server supports TLS
CANARY = "canary-of-a-patient"
QUERY = f"from django.db import connection; connection.cursor().execute('SELECT %s::text', ['{CANARY}'])"


class Attacker(TcpServer):
    """Forwards connections to the loopback port `target` and records what clients send.

    It answers libpq's SSLRequest with N, or if it has a certificate, with S. `is_tls` means TLS without that question.
    """

    def __init__(self, target: int, context: ssl.SSLContext | None = None, *, is_tls: bool = False) -> None:
        super().__init__()
        self._target, self._context, self._is_tls = target, context, is_tls
        self.connections = 0
        self.read = b""  # without SSLRequest and without what TLS encrypts

    def serve(self, client: socket.socket) -> None:
        self.connections += 1
        if not self._is_tls:
            first = client.recv(len(SSL_REQUEST), socket.MSG_WAITALL)
            if first == SSL_REQUEST:
                client.sendall(b"S" if self._context else b"N")
                first = b""
            self.read += first
        else:
            first = b""
        if self._context:
            client = self._context.wrap_socket(client, server_side=True)  # raises OSError if the client refuses
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
            server.sendall(first)
            while data := client.recv(65536):
                self.read += data
                server.sendall(data)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


def certificate(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return the authority that the application trusts."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def execute_query(attacker: Attacker, options: str, accepted: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command in production that sends the canary to PostgreSQL, through the attacker."""
    url = f"postgres://tester:{QUOTED}@127.1:{attacker.port}/tests?{options}"
    return run(
        ["manage.py", "shell", "-v", "0", "-c", QUERY],
        {**PRODUCTION, "DATABASE_URL": url, "PLAINTEXT_DEPENDENCIES": accepted},
    )


def test_plain_text_to_postgresql_is_refused_and_could_be_read(servers: Servers) -> None:
    with Attacker(servers.postgres.port) as attacker:
        refused = execute_query(attacker, "sslmode=prefer")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert re.fullmatch(r"voiceassist: DATABASE_URL: .* sslmode=verify-full, .*=postgres\.\n", refused.stderr)
        assert attacker.connections == 0
        accepted = execute_query(attacker, "sslmode=prefer", accepted="postgres")
        assert accepted.returncode == 0, accepted.stderr
        assert CANARY.encode() in attacker.read


def test_attacker_cannot_switch_tls_off(servers: Servers, ca_file: Path) -> None:
    with Attacker(servers.postgres.port) as attacker:
        refused = execute_query(attacker, f"sslmode=verify-full&sslrootcert={ca_file}")
        assert refused.returncode != 0
        assert attacker.connections > 0
        assert attacker.read == b""  # not even the name of the user


@pytest.mark.parametrize(
    ("mode", "trusted", "name", "is_read"),
    [
        ("verify-full", False, "127.0.0.1", False),
        ("verify-full", True, "other.example.org", False),
        # These show that the modes which the settings call "not verified" are not.
        ("require", False, "127.0.0.1", True),
        ("verify-ca", True, "other.example.org", True),
    ],
)
def test_attacker_cannot_use_another_certificate(
    servers: Servers, authority: trustme.CA, ca_file: Path, mode: str, trusted: bool, name: str, is_read: bool
) -> None:
    context = certificate(authority if trusted else trustme.CA(), name)
    options = f"sslmode={mode}" if mode == "require" else f"sslmode={mode}&sslrootcert={ca_file}"
    with Attacker(servers.postgres.port, context) as attacker:
        done = execute_query(attacker, options, accepted="postgres" if is_read else "")
        assert (done.returncode == 0) is is_read, done.stderr
        assert attacker.connections > 0
        assert (CANARY.encode() in attacker.read) is is_read
        assert is_read or attacker.read == b""


def test_self_signed_redis_and_qdrant_receive_no_credentials(servers: Servers) -> None:
    untrusted = certificate(trustme.CA(), "127.0.0.1")
    with (
        Attacker(servers.redis.port, untrusted, is_tls=True) as redis,
        Attacker(servers.qdrant.port, untrusted, is_tls=True) as qdrant,
    ):
        environment = {
            **PRODUCTION,
            "REDIS_URL": f"rediss://:{QUOTED}@127.1:{redis.port}/0",
            "QDRANT_URL": f"https://127.0.0.1:{qdrant.port}",
            "QDRANT_API_KEY": API_KEY,
        }
        done = run(["manage.py", "checkdeps", "--only", "redis", "--only", "qdrant", "--timeout", "10"], environment)
        assert done.returncode == 1
        assert done.stdout.count("tls_failure") == 2, done.stdout
        for attacker in (redis, qdrant):
            assert attacker.connections > 0
            assert attacker.read == b""


@pytest.mark.parametrize("name", ["REDIS_URL", "QDRANT_URL"])
def test_server_refuses_to_start_with_plain_text(name: str) -> None:
    url = PRODUCTION[name].replace("rediss:", "redis:").replace("https:", "http:")
    dependency = name.split("_")[0].lower()
    done = run(SERVER, {**PRODUCTION, name: url})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"voiceassist: {name}: .*PLAINTEXT_DEPENDENCIES={dependency}\.\n", done.stderr)


@pytest.fixture
def verified(servers: Servers, authority: trustme.CA) -> Iterator[int]:
    """Yield the port of a PostgreSQL server with the right certificate."""
    with Attacker(servers.postgres.port, certificate(authority, "127.0.0.1")) as proxy:
        yield proxy.port


def test_checkdeps_shows_how_each_connection_is_protected(servers: Servers, ca_file: Path, verified: int) -> None:
    plain = {"REDIS_URL": servers.redis.url, "QDRANT_URL": servers.qdrant.url, "QDRANT_API_KEY": API_KEY}
    command = ["manage.py", "checkdeps", *(f"--only={name}" for name in ("postgres", "redis", "qdrant"))]
    for port, options, accepted, expected in [
        (verified, f"sslmode=verify-full&sslrootcert={ca_file}", "", "TLS, verified"),
        (verified, "sslmode=prefer", "postgres", "TLS, not verified"),
        (servers.postgres.port, "sslmode=prefer", "postgres", "plain text"),
    ]:
        url = f"postgres://tester:{QUOTED}@127.1:{port}/tests?{options}"
        done = run(command, {**PRODUCTION, **plain, "DATABASE_URL": url, "PLAINTEXT_DEPENDENCIES": accepted})
        assert done.returncode == 0, done.stdout + done.stderr
        found = dict(re.findall(r"^(\w+) .*\(([^()]+)\)(?:, [^()]+)?$", done.stdout, re.MULTILINE))
        assert found == {"postgres": expected, "redis": "local", "qdrant": "local"}
        assert PASSWORD not in done.stdout + done.stderr
