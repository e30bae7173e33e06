"""Behind PgBouncer in transaction mode, where each transaction may get another connection to PostgreSQL."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from django.contrib.auth.hashers import make_password

from tests.core.management.test_migrate import migrate_concurrently
from tests.support.dependency_servers import PgBouncer, needs_pgbouncer
from tests.support.plugin import Servers
from tests.support.voiceassist_server import VoiceAssistServer

pytestmark = needs_pgbouncer

DATABASE = "pooled"
PASSWORD = "the admin's password"
ADDED = 12  # users


@pytest.fixture(scope="module")
def pooled(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a fresh database behind PgBouncer, with just enough connections for a migrate: its lock's, its own."""
    servers.postgres.execute(f"CREATE DATABASE {DATABASE}")
    pooler = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), servers.postgres, pool=2)
    pooler.start()
    yield pooler.before(servers.postgres.url).replace("/tests", f"/{DATABASE}")
    pooler.kill()
    servers.postgres.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_migrate_from_many_processes(pooled: str) -> None:
    migrate_concurrently(4, url=pooled)


def test_the_server_works(pooled: str) -> None:
    """Several at once, so that what one has left on a connection meets another. The database is the one from above."""
    with psycopg.connect(pooled) as connection:
        connection.execute(
            "INSERT INTO users (id, email, password, full_name, specialty, created_at, updated_at, is_active, is_staff,"
            " is_superuser) VALUES (gen_random_uuid(), 'ann@example.org', %s, '', '', now(), now(), true, true, true)",
            [make_password(PASSWORD)],
        )
    with VoiceAssistServer(DATABASE_URL=pooled) as app:
        use(app)
        levels = [json.loads(line)["level"] for line in app.log().splitlines()]
    assert set(levels) == {"info"}
    with psycopg.connect(pooled) as connection:
        made = "SELECT actor_email, count(DISTINCT trace_id) FROM audit_events WHERE action = 'create' GROUP BY 1"
        assert dict(connection.execute(made).fetchall()) == {"": 1, "ann@example.org": ADDED}
        connection.execute("UPDATE users SET specialty = 'cardiology' WHERE email = '3@example.org'")
        of_nobody = "SELECT actor_email FROM audit_events WHERE action = 'change' ORDER BY created_at DESC LIMIT 1"
        assert connection.execute(of_nobody).fetchone() == ("",)


def use(app: VoiceAssistServer) -> None:

    def ready(_: int) -> None:
        status, _headers, body = app.get("/ready")
        assert status == 200, body
        assert json.loads(body)["data"]["dependencies"]["postgres"]["reason"] is None

    with httpx.Client(base_url=app.url, follow_redirects=True, timeout=30) as staff, ThreadPoolExecutor(4) as several:
        credentials = {"username": "ann@example.org", "password": PASSWORD, "next": "/admin/"}
        staff.get("/admin/login/")
        staff.headers["X-CSRFToken"] = staff.cookies["csrftoken"]
        assert staff.post("/admin/login/", data=credentials).is_success
        staff.headers["X-CSRFToken"] = staff.cookies["csrftoken"]
        probes = several.map(ready, range(20))

        def add(number: int) -> str:
            form = {"email": f"{number}@example.org", "usable_password": "false"}
            answer = staff.post("/admin/core/user/add/", data=form)
            assert answer.is_success, answer.status_code
            assert "/change/" in str(answer.url)  # the page has selects, which Django reads by cursors
            return answer.headers["X-Request-ID"]

        list(several.map(add, range(ADDED)))
        list(probes)
