"""The login page while the database is down: the cause and the time, on the first page that somebody on call opens."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.polling import NOISE, ends_within, succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "admin@example.org", "a long password"
LOGIN = "/admin/login/?next=/admin/status/"
FORM = 'id="login-form"'
ROW = r'<th scope="row">(\w+).*?<td>(\w+)(?:: <code>(\w+))?.*?datetime="(.*?)"'


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    return database_with_staff(servers.postgres, "login", EMAIL, PASSWORD)


@pytest.mark.parametrize(("mode", "reason"), [("silent", "timeout"), ("refuse", "connection_refused")])
def test_shows_what_is_down_and_since_when(
    database: str, redis: Valkey, servers: Servers, mode: str, reason: str
) -> None:
    with Proxy(servers.postgres.port) as proxy:
        url = database.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with (
            VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, HEALTH_TIMEOUT="0.5") as app,
            httpx.Client(base_url=app.url, timeout=30, follow_redirects=True) as client,
        ):
            assert succeeds_within(10, lambda: FORM in client.get(LOGIN).text)
            form = {"username": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            app.wait_for_checks()
            proxy.mode = mode
            down_at = time.time()
            redis.freeze()
            requests: list[Callable[[], httpx.Response]] = [
                lambda: client.get("/admin/status/"),
                lambda: client.post(LOGIN, data=form),
                lambda: client.get(LOGIN, headers={"cookie": "sessionid=of-an-earlier-login"}),
            ]
            for send in requests:
                response = send()
                assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
                assert "<h1>Nobody can log in</h1>" in response.text
                assert FORM not in response.text
                # HEALTH_TIMEOUT, because neither PostgreSQL nor Redis is asked.
                assert response.elapsed.total_seconds() < 0.5 + NOISE
                rows = re.findall(ROW, response.text, re.DOTALL)
                states = {name: (state, reason) for name, state, reason, _ in rows}
                assert states["postgres"] == ("Unhealthy", reason)
                assert states["redis"] == ("Unhealthy", "timeout")
                assert states["qdrant"] == ("Healthy", "")
                since = datetime.fromisoformat(next(time for name, *_, time in rows if name == "postgres"))
                assert -1 < since.timestamp() - down_at < 10 + time.time() - down_at
                assert f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time></strong>" in response.text
                for secret in (str(proxy.port), str(servers.qdrant.port), "127.0.0.1:", "se:cr", EMAIL):
                    assert secret not in response.text.replace(app.url, "")
            proxy.mode = "pass"
            redis.thaw()
            assert succeeds_within(10, lambda: FORM in client.get(LOGIN).text)


def test_redis_is_not_needed(database: str, redis: Valkey) -> None:
    with VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, HEALTH_TIMEOUT="0.5") as app:
        redis.kill()
        app.log_in(EMAIL, PASSWORD).close()


def test_does_not_wait_for_other_dependencies(database: str, redis: Valkey) -> None:
    with VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, HEALTH_TIMEOUT="20", WEB_CONCURRENCY="1") as app:
        app.wait_for_checks()
        redis.freeze()
        with ends_within(10):
            assert FORM in app.get(LOGIN)[2].decode()
        redis.thaw()


def test_works_on_a_network_that_is_too_slow_for_the_checks(database: str, redis: Valkey, servers: Servers) -> None:
    with Proxy(servers.postgres.port) as proxy:
        proxy.mode, proxy.delay = "delay", 0.06
        url = database.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, HEALTH_TIMEOUT="0.1") as app:
            status, _, body = app.get("/ready")
            assert status == 503
            assert json.loads(body)["error"]["details"]["dependencies"]["postgres"]["reason"] == "timeout"
            app.log_in(EMAIL, PASSWORD).close()
