"""PgBouncer in transaction mode, where each transaction may use a different connection to PostgreSQL."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from django.contrib.auth.hashers import make_password

from tests.core.management.test_migrate import migrate_concurrently
from tests.support.databases import migrated_database, url_of
from tests.support.dependency_servers import PgBouncer, as_application, as_owner, needs_pgbouncer
from tests.support.plugin import Servers
from tests.support.voiceassist_server import VoiceAssistServer

pytestmark = needs_pgbouncer

PASSWORD = "the admin's password"
USERS = 12  # added in the admin


@pytest.fixture(scope="module")
def pooler(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    """Yield a pooler with two connections to each database. `migrate` needs both, one of them for a lock."""
    with PgBouncer(tmp_path_factory.mktemp("pgbouncer"), servers.postgres, pool=2) as pooler:
        yield pooler


def test_migrate_from_many_processes(servers: Servers, pooler: PgBouncer) -> None:
    servers.postgres.execute("CREATE DATABASE pooled_empty")
    try:
        migrate_concurrently(4, url=as_owner(pooler.url_for(url_of(servers.postgres, "pooled_empty"))))
    finally:
        servers.postgres.execute("DROP DATABASE pooled_empty WITH (FORCE)")


@pytest.fixture
def pooled(servers: Servers, pooler: PgBouncer) -> Iterator[str]:
    """Yield the application's URL of a migrated database behind PgBouncer."""
    yield as_application(pooler.url_for(migrated_database(servers.postgres, "pooled")))
    servers.postgres.execute("DROP DATABASE pooled WITH (FORCE)")


def test_concurrent_requests_share_no_state(pooled: str) -> None:
    """State that one request leaves on a connection would affect another."""
    with psycopg.connect(pooled) as connection:
        connection.execute(
            "INSERT INTO users (id, email, password, full_name, specialty, created_at, updated_at, is_active, is_staff,"
            " is_superuser) VALUES (gen_random_uuid(), 'ann@example.org', %s, '', '', now(), now(), true, true, true)",
            [make_password(PASSWORD)],
        )
    with VoiceAssistServer(DATABASE_URL=pooled) as app:
        send_requests(app)
        levels = [line["level"] for line in app.log_lines()]
    assert set(levels) == {"info"}
    with psycopg.connect(pooled) as connection:
        creations = "SELECT actor_email, count(DISTINCT trace_id) FROM audit_events WHERE action = 'create' GROUP BY 1"
        # Without an actor: the user above, and the groups of a migration.
        assert dict(connection.execute(creations).fetchall()) == {"": 2, "ann@example.org": USERS}
        connection.execute("UPDATE users SET specialty = 'cardiology' WHERE email = '3@example.org'")
        last_actor = "SELECT actor_email FROM audit_events WHERE action = 'change' ORDER BY created_at DESC LIMIT 1"
        assert connection.execute(last_actor).fetchone() == ("",)


def send_requests(app: VoiceAssistServer) -> None:
    def assert_ready(_: int) -> None:
        status, _headers, body = app.get("/ready")
        assert status == 200, body
        assert json.loads(body)["data"]["dependencies"]["postgres"]["reason"] is None

    with httpx.Client(base_url=app.url, follow_redirects=True, timeout=30) as staff, ThreadPoolExecutor(4) as pool:
        credentials = {"username": "ann@example.org", "password": PASSWORD, "next": "/admin/"}
        staff.get("/admin/login/")
        staff.headers["X-CSRFToken"] = staff.cookies["csrftoken"]
        assert staff.post("/admin/login/", data=credentials).is_success
        staff.headers["X-CSRFToken"] = staff.cookies["csrftoken"]
        probes = pool.map(assert_ready, range(20))

        def add(number: int) -> str:
            form = {"email": f"{number}@example.org", "usable_password": "false", "confirmation": PASSWORD}
            while (response := staff.post("/admin/core/user/add/", data=form)).status_code == 429:
                time.sleep(0.1)  # other requests wait for their password hashes
            assert response.is_success, response.status_code
            assert "/change/" in str(response.url)  # Django reads the options of this page with cursors
            return response.headers["X-Request-ID"]

        list(pool.map(add, range(USERS)))
        list(probes)
