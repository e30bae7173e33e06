"""The queue works with every kind of REDIS_URL, with the documented permissions only, and a full Redis loses no job."""

import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pytest
import redis
import trustme
from django.utils import timezone
from dramatiq.brokers.redis import _RedisConsumer

from core import tasks
from core.jobs import queue
from core.models import Job
from tests.health.checks.test_redis import PERMISSIONS, url_of_user
from tests.support.dependency_servers import Valkey
from tests.support.proxy import TlsProxy
from tests.support.readiness import RedisUrl, check
from tests.support.sentinel import Group

pytestmark = pytest.mark.django_db
CACHE_PERMISSIONS = {"+get", "+set", "+del", "+exists"}
assert PERMISSIONS, "The documentation has no ACL SETUSER any more."
QUEUE_PERMISSIONS = sorted({word for word in PERMISSIONS[1].split() if word.startswith("+")} - CACHE_PERMISSIONS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    folder = tmp_path_factory.mktemp("valkey")
    server = Valkey(folder, options=("--unixsocket", str(folder / "socket")))
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def new_broker() -> Iterator[None]:
    """Let the queue connect with the URL of the test."""
    queue.broker.cache_clear()
    yield
    queue.broker.cache_clear()


def use_every_command() -> None:
    """Call every part of Dramatiq's script, and what the queue itself calls. Raise what Redis responds."""
    broker = queue.broker()
    queue.report_worker()
    assert queue.count_workers(broker.client) == 1
    queue.send_due_jobs()
    job_id = str(uuid4())
    message = broker.get_actor("run").message(job_id)
    for outcome in ("ack", "nack", "requeue"):
        broker.enqueue(message)
        consumer = broker.consume(queue.QUEUE, prefetch=1, timeout=1)
        assert isinstance(consumer, _RedisConsumer)
        received = next(consumer)
        assert received and received.args == (job_id,)
        if outcome == "requeue":
            consumer.requeue([received])  # type: ignore[no-untyped-call]
        else:
            getattr(consumer, outcome)(received)
    next(broker.consume(queue.QUEUE, prefetch=1, timeout=1))  # not acknowledged, as by a worker that was killed
    with patch.object(queue, "_CLIENT_TIMEOUT", -60_000):
        queue.remove_ended_clients()
    queue.remove_worker()


# URLs


@pytest.mark.parametrize("kind", ["redis", "unix", "rediss"])
def test_works_with_url(use_url: RedisUrl, server: Valkey, kind: str, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "issuer.pem"))
    login = server.url.split("://")[1].split("@")[0]
    with TlsProxy(server.port, context) as proxy:
        use_url(
            {
                "redis": server.url,
                "unix": f"unix://{login}@{server.folder / 'socket'}?db=1",
                "rediss": f"rediss://{login}@127.0.0.1:{proxy.port}/0?ssl_ca_certs={tmp_path / 'issuer.pem'}",
            }[kind]
        )
        server.send_command("FLUSHALL")
        use_every_command()


def test_works_with_sentinel(use_url: RedisUrl, tmp_path: Path) -> None:
    with Group(tmp_path) as group:
        use_url(group.url())
        use_every_command()


# Permissions


def test_documented_permissions_suffice(use_url: RedisUrl, server: Valkey) -> None:
    server.send_command("FLUSHALL")
    server.send_command("SCRIPT FLUSH")
    server.send_command("ACL LOG RESET")
    use_url(url_of_user(server, ""))
    use_every_command()
    with redis.Redis(port=server.port, password=server.password) as administrator:
        assert administrator.acl_log() == []


@pytest.mark.parametrize("permission", QUEUE_PERMISSIONS)
def test_each_documented_permission_is_necessary(use_url: RedisUrl, server: Valkey, permission: str) -> None:
    server.send_command("FLUSHALL")
    server.send_command("SCRIPT FLUSH")
    use_url(url_of_user(server, permission.replace("+", "-")))
    server.send_command("ACL LOG RESET")
    with suppress(redis.RedisError, StopIteration):
        use_every_command()
    with redis.Redis(port=server.port, password=server.password) as administrator:
        assert {entry["object"] for entry in administrator.acl_log()} == {permission.removeprefix("+")}


def test_check_reports_a_missing_permission(use_url: RedisUrl, server: Valkey) -> None:
    use_url(url_of_user(server, "-evalsha"))
    assert check("redis").healthy
    result = check("queue")
    assert result.reason == "auth_failed"
    assert "evalsha" in result.detail


# A full Redis


@pytest.mark.django_db(transaction=True)
def test_full_redis_accepts_no_id_but_loses_no_job(
    use_url: RedisUrl, server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(server.url)
    server.send_command("FLUSHALL")
    server.send_command("CONFIG SET maxmemory 1")  # with the default policy noeviction
    try:
        result = tasks.clear_web_sessions.enqueue()
        job = Job.objects.get(pk=result.id)
        assert job.status == "queued"
        assert server.send_command("LLEN voiceassist:queue:jobs").endswith(b":0\r\n")
    finally:
        server.send_command("CONFIG SET maxmemory 0")
    monkeypatch.setattr(queue, "_SEND_AGAIN", timedelta(0))
    Job.objects.update(run_after=timezone.now() - timedelta(seconds=1))
    queue.send_due_jobs()
    message = next(queue.broker().consume(queue.QUEUE, prefetch=1, timeout=1))
    assert message and message.args == (str(job.pk),)
