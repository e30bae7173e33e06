"""The Redis check and the cache need the same commands, and each failure has a fitting reason."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from django.core.cache import cache as django_cache
from redis.crc import key_slot

from core.auth.web_sessions import SessionStore
from health.checks.redis import cache_keys, connect
from tests.support.dependency_servers import Valkey, free_port
from tests.support.fixed_reply_server import FixedReplyServer
from tests.support.polling import succeeds_within
from tests.support.proxy import Proxy, TlsProxy
from tests.support.readiness import RedisUrl, check
from tests.support.voiceassist_server import ROOT

PERMISSIONS = re.search(r"^ACL SETUSER voiceassist on >PASSWORD (.+)$", (ROOT / "docs/OPERATIONS.md").read_text(), re.M)
cache: Any = django_cache  # django-redis' methods return more than Django's


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


def url_of_user(server: Valkey, permissions: str) -> str:
    """Return the URL of a user that has only the permissions of the documentation, then `permissions`."""
    assert PERMISSIONS
    response = server.send_command(f"ACL SETUSER minimal reset on >user-password {PERMISSIONS[1]} {permissions}")
    assert response.endswith(b"+OK\r\n"), response
    return f"redis://minimal:user-password@127.0.0.1:{server.port}/0"


def use_cache() -> None:
    """Use everything that the application uses. The cache itself hides failures."""
    assert cache.set("key", "value", 60) is True
    assert cache.get("key") == "value"
    assert "key" in cache
    assert cache.delete("key") == 1


# Permissions


@pytest.mark.django_db
@pytest.mark.parametrize("options", ["", "?protocol=3"])
def test_documented_permissions_suffice(use_url: RedisUrl, server: Valkey, options: str) -> None:
    use_url(url_of_user(server, "+info") + options)
    server.send_command("ACL LOG RESET")
    assert check("redis").version
    use_cache()
    session = SessionStore()
    session["key"] = "value"
    session.create()
    assert session.session_key
    assert SessionStore(session.session_key)["key"] == "value"
    assert session.exists(session.session_key)
    session.flush()
    with redis.Redis(port=server.port, password=server.password) as administrator:
        refused = {entry["object"] for entry in administrator.acl_log()}
    assert refused <= {"client|maint_notifications"}  # which redis-py sends with protocol 3, and does not need


def test_version_is_unknown_without_the_permission(use_url: RedisUrl, server: Valkey) -> None:
    use_url(url_of_user(server, ""))
    result = check("redis")
    assert (result.reason, result.version) == (None, None)


def test_reports_the_version_of_redis_too(use_url: RedisUrl, server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda client, section: {"redis_version": "8.2.1"})
    use_url(server.url)
    assert check("redis").version == "8.2.1"


def test_connecting_and_reading_share_the_time(use_url: RedisUrl, server: Valkey) -> None:
    use_url(server.url)
    options = connect(2.0).connection_pool.connection_kwargs
    assert options["socket_connect_timeout"] + options["socket_timeout"] == 2.0


def test_health_checks_of_the_client_come_after_the_password(use_url: RedisUrl, server: Valkey) -> None:
    use_url(f"{server.url}?health_check_interval=1")
    assert check("redis").healthy


@pytest.mark.parametrize(
    ("permissions", "detail"),
    [
        ("-get", "'get'"),
        ("-set", "'set'"),
        ("-del", "'del'"),
        ("-exists", "'exists'"),
        ("resetkeys ~other:*", "No permissions to access a key"),
        ("resetkeys %R~voiceassist:*", "No permissions to access a key"),
        ("resetkeys ~voiceassist:readiness*", "No permissions to access a key"),
    ],
)
def test_missing_permission_is_reported(use_url: RedisUrl, server: Valkey, permissions: str, detail: str) -> None:
    use_url(url_of_user(server, permissions))
    result = check("redis")
    assert result.reason == "auth_failed"
    assert detail in result.detail


def test_permission_that_is_revoked_later_is_reported(use_url: RedisUrl, server: Valkey) -> None:
    use_url(url_of_user(server, ""))
    assert check("redis").healthy
    server.send_command("ACL SETUSER minimal -get")
    assert check("redis").reason == "auth_failed"


def test_leaves_no_key(use_url: RedisUrl, server: Valkey) -> None:
    use_url(server.url)
    assert check("redis").healthy
    assert server.send_command("DBSIZE").endswith(b":0\r\n")


# Servers with fewer commands


def test_server_without_hello_client_and_info(use_url: RedisUrl, tmp_path: Path) -> None:
    renamed = [option for name in ("HELLO", "CLIENT", "INFO") for option in ("--rename-command", name, "")]
    server = Valkey(tmp_path / "valkey", options=tuple(renamed))
    server.start()
    try:
        use_url(server.url)
        assert check("redis").healthy
        use_cache()
        server.send_command("ACL SETUSER default nopass")
        use_url(f"redis://127.0.0.1:{server.port}/0?protocol=3")
        result = check("redis")
        assert (result.reason, result.detail.endswith("Remove protocol=3 from REDIS_URL")) == ("misconfigured", True)
    finally:
        server.kill()


def test_proxy_that_closes_the_connection_at_other_commands(use_url: RedisUrl, server: Valkey) -> None:
    """twemproxy does so. The command INFO is optional, so it is sent once and the next check reconnects."""
    with Proxy(server.port) as proxy:
        proxy.forbidden = rb"\n(?!AUTH|GET|SET|DEL|EXISTS|EX\b|PX\b)[A-Z]{2,}\r\n"
        use_url(server.url.replace(f":{server.port}", f":{proxy.port}"))
        for _ in range(3):
            assert check("redis").healthy
        use_cache()
        assert proxy.accepted == 3  # the check before and after INFO, and the cache


# Redis Cluster


def test_keys_are_in_different_quarters_of_the_hash_slots() -> None:
    assert sorted(key_slot(key.encode()) // 4096 for key in cache_keys()) == [0, 1, 2, 3]


def test_every_node_of_a_cluster_is_misconfigured(use_url: RedisUrl, tmp_path: Path) -> None:
    nodes = [
        Valkey(tmp_path / name, options=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
        for name in ("first", "second")
    ]

    def is_refused(node: Valkey) -> bool:
        use_url(url_of_user(node, ""))
        result = check("redis")
        return result.reason == "misconfigured" and result.detail.startswith("Redis Cluster is not supported")

    try:
        for node in nodes:
            node.start()
        first, second = nodes
        assert is_refused(first)  # CLUSTERDOWN
        first.send_command("CLUSTER ADDSLOTSRANGE 0 8191")
        second.send_command("CLUSTER ADDSLOTSRANGE 8192 16383")
        bus_port = second.options[second.options.index("--cluster-port") + 1]
        first.send_command(f"CLUSTER MEET 127.0.0.1 {second.port} {bus_port}")
        assert succeeds_within(15, lambda: all(b"state:ok" in node.send_command("CLUSTER INFO") for node in nodes))
        assert all(is_refused(node) for node in nodes)
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.django_db
def test_a_node_with_all_slots_works(use_url: RedisUrl, tmp_path: Path) -> None:
    """Such as a managed service in cluster mode with one shard. The application uses no command with several keys."""
    node = Valkey(tmp_path, options=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    try:
        node.start()
        node.send_command("CLUSTER ADDSLOTSRANGE 0 16383")
        use_url(url_of_user(node, ""))
        assert succeeds_within(15, lambda: check("redis").healthy)
        use_cache()
    finally:
        node.kill()


# Replies


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "not_ready"),
        (b"-MISCONF Redis is configured to save RDB snapshots, but is unable to persist to disk.\r\n", "not_ready"),
        (b"-READONLY You can't write against a read only replica.\r\n", "not_ready"),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", "not_ready"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "not_ready"),
        (b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n", "not_ready"),
        (b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL.\r\n", "not_ready"),
        (b"-ERR max number of clients reached\r\n", "not_ready"),
        (b"-no upstream host\r\n", "not_ready"),
        (b"-NOAUTH Authentication required.\r\n", "auth_failed"),
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", "auth_failed"),
        (b"-NOPERM this user has no permissions to run the 'set' command\r\n", "auth_failed"),
        (b"-ERR invalid password\r\n", "auth_failed"),
        (b"-ERR Client sent AUTH, but no password is set\r\n", "auth_failed"),
        (b"-DENIED Redis is running in protected mode because no password is set.\r\n", "auth_failed"),
        (b"-ERR DB index is out of range\r\n", "misconfigured"),
        (b"-ERR SELECT is not allowed in cluster mode\r\n", "misconfigured"),
        (b"-ERR unknown command 'SET', with args beginning with: 'x'\r\n", "misconfigured"),
        (b"-unsupported command 'set'\r\n", "misconfigured"),
        (b"-MOVED 4406 127.0.0.1:31002\r\n", "misconfigured"),
        (b"-ASK 4406 127.0.0.1:31002\r\n", "misconfigured"),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "misconfigured"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "misconfigured"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "misconfigured"),
        (b"-ERR Connection refused\r\n", "connection_refused"),  # twemproxy
        (b"+OK\r\n", "bad_response"),
        (b":1\r\n", "bad_response"),
        (b":one\r\n", "bad_response"),
        (b"$5\r\nhello\r\n", "bad_response"),
        (b"$-1\r\n", "bad_response"),
        (b"*2\r\n:1\r\n:2\r\n", "bad_response"),
        (b"%1\r\n+a\r\n+b\r\n", "bad_response"),
        (b"*1\r\n" * 50_000, "bad_response"),
        (b"$9999999999\r\n" + b"x" * 2_000_000, "bad_response"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bad_response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_response"),
        (b"220 mail.example.org ESMTP\r\n", "bad_response"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else None,
)
def test_reason_of_reply(use_url: RedisUrl, reply: bytes, reason: str) -> None:
    with FixedReplyServer(reply) as server:
        use_url(f"redis://127.0.0.1:{server.port}/0")
        result = check("redis")
        assert result.reason == reason, result


def test_other_kinds_of_servers(use_url: RedisUrl, servers: Any) -> None:
    for port, reasons in [
        (servers.postgres.port, {"connection_lost"}),
        (servers.qdrant.port, {"connection_lost", "bad_response"}),
    ]:
        use_url(f"redis://127.0.0.1:{port}/0")
        assert check("redis").reason in reasons


# TLS


@pytest.mark.parametrize(("password", "reason"), [("key-password", None), ("wrong", "tls_failure")])
def test_encrypted_key_of_a_client_certificate(
    use_url: RedisUrl, server: Valkey, tmp_path: Path, password: str, reason: str | None
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(str(tmp_path / "issuer.pem"))
    client = authority.issue_cert("client.example.org")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    key = load_pem_private_key(client.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(b"key-password")
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    (tmp_path / "key.pem").write_bytes(encrypted)
    options = "&".join(
        (
            f"ssl_ca_certs={tmp_path / 'issuer.pem'}",
            f"ssl_certfile={tmp_path / 'client.pem'}",
            f"ssl_keyfile={tmp_path / 'key.pem'}",
            f"ssl_password={password}",
        )
    )
    with TlsProxy(server.port, context) as proxy:
        url = server.url.replace("redis:", "rediss:").replace(f":{server.port}", f":{proxy.port}")
        use_url(f"{url}?{options}")
        assert check("redis").reason == reason


def test_tls_failures(use_url: RedisUrl, server: Valkey, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "issuer.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    (tmp_path / "invalid.pem").write_text("not a certificate")
    issuer = f"ssl_ca_certs={tmp_path / 'issuer.pem'}"
    with TlsProxy(server.port, context) as proxy:
        url = server.url.replace("redis:", "rediss:").replace(f":{server.port}", f":{proxy.port}")
        for options, reason, named in [
            (issuer, None, ""),
            (f"ssl_ca_certs={tmp_path / 'other.pem'}", "tls_failure", ""),
            (f"ssl_ca_certs={tmp_path / 'missing.pem'}", "tls_failure", "ssl_ca_certs=/"),
            (f"ssl_ca_certs={tmp_path / 'invalid.pem'}", "tls_failure", "ssl_ca_certs=/"),
            (f"ssl_ca_certs={tmp_path}", "tls_failure", "ssl_ca_certs=/"),
            (f"{issuer}&ssl_certfile={tmp_path / 'missing.pem'}", "tls_failure", "ssl_certfile=/"),
            (f"{issuer}&ssl_certfile={tmp_path / 'issuer.pem'}", "tls_failure", "ssl_certfile=/"),
            (f"ssl_ca_path={tmp_path / 'missing'}", "tls_failure", ""),
        ]:
            use_url(f"{url}?{options}")
            result = check("redis")
            assert (result.reason, named in result.detail) == (reason, True), (options, result)
        use_url(url.replace("rediss:", "redis:"))
        assert check("redis").reason == "connection_lost"
