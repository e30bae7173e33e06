"""`manage.py worker --bind`: /health and /metrics."""

import socket
import struct

import httpx
import pytest
from django.core.management import CommandError, call_command

from core.jobs.worker import Worker as JobWorker
from core.models import User
from tests.core.jobs.conftest import Servers
from tests.support.dependency_servers import free_port
from tests.support.jobs import tasks
from tests.support.polling import succeeds_within


def test_health_and_metrics(jobs: Servers, user: User) -> None:
    port = free_port()
    with jobs.worker("--bind", f"[::1]:{port}", METRICS_TOKEN="token-of-the-tests-0123456789") as worker:
        url = f"http://[::1]:{port}"
        health = httpx.get(f"{url}/health")
        assert (health.status_code, health.headers["Cache-Control"]) == (200, "no-store")
        assert httpx.head(f"{url}/health/").status_code == 200
        assert httpx.post(f"{url}/health").status_code == 405
        assert httpx.get(f"{url}/").status_code == 404
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers={b"Authorization": "Bearer é".encode()}).status_code == 401
        tasks.add_session.enqueue(user.pk)
        right = {"Authorization": "Bearer token-of-the-tests-0123456789"}
        line = 'voiceassist_jobs_total{outcome="succeeded",task="add_session"} 1.0'
        assert succeeds_within(20, lambda: line in httpx.get(f"{url}/metrics", headers=right).text)
        worker.freeze()
        worker.thaw()
        assert worker.stop() == 0


def test_client_that_disconnects_is_not_logged(jobs: Servers) -> None:
    """The standard library would write a traceback with the address, which is neither JSON nor useful."""
    with jobs.worker("--bind", f"127.0.0.1:{jobs.http_port}") as worker:
        assert jobs.http_status("/health") == 200
        with socket.create_connection(("127.0.0.1", jobs.http_port)) as client:
            client.sendall(b"GET /hea")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
        assert jobs.http_status("/health") == 200
        assert worker.stop() == 0
        assert "Traceback" not in worker.log()


def test_health_fails_when_the_housekeeping_hangs(jobs: Servers) -> None:
    hung = {"core.jobs.worker._INTERVAL": 3600, "core.jobs.worker_http._MAX_AGE": 0}
    with jobs.worker("--bind", f"127.0.0.1:{jobs.http_port}", constants=hung, DATABASE_TIMEOUT="1"):
        assert succeeds_within(20, lambda: jobs.http_status("/health") == 503)


@pytest.mark.parametrize("bind", ["8000", ":8000", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:²"])
def test_wrong_address(monkeypatch: pytest.MonkeyPatch, bind: str) -> None:
    monkeypatch.setattr("core.jobs.worker.signal.pthread_sigmask", lambda *_: None)
    with pytest.raises(CommandError, match="is not HOST:PORT"):
        call_command("worker", bind=bind)


def test_address_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.jobs.worker.signal.pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(JobWorker, "run", lambda self: pytest.fail("it must not start"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"Could not listen on {address}: Address already in use"):
            call_command("worker", bind=address)
