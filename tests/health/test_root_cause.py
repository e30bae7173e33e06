"""An outage of PostgreSQL or Redis is reported once, although other checks need it too."""

import json
from contextlib import closing

from health.check_runner import Result
from health.checks import root_cause
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "admin@example.org", "a long password"


def attributed(**reasons: str) -> dict[str, tuple[str | None, str | None]]:
    """Return the reason and the cause of each dependency that is unhealthy. The arguments are what the checks found."""
    names = ("postgres", "redis", "qdrant", "migrations", "queue")
    results = tuple(Result(name, True, 1.0, reasons.get(name), "detail") for name in names)
    return {result.name: (result.reason, result.cause) for result in root_cause.attribute(results) if result.reason}


def test_failure_has_the_reason_of_its_cause() -> None:
    assert attributed(postgres="timeout", migrations="error", queue="error") == {
        "postgres": ("timeout", None),
        "migrations": ("timeout", "postgres"),
        "queue": ("timeout", "postgres"),
    }
    assert attributed(redis="auth_failed", queue="timeout")["queue"] == ("auth_failed", "redis")


def test_fault_of_its_own_is_kept() -> None:
    assert attributed(migrations="timeout") == {"migrations": ("timeout", None)}
    assert attributed(qdrant="error", queue="not_ready")["queue"] == ("not_ready", None)
    # PostgreSQL responded, although it can't commit.
    for own in ("schema_too_new", "migrations_pending"):
        assert attributed(postgres="not_ready", migrations=own)["migrations"] == (own, None)
    assert attributed(postgres="not_ready") == {"postgres": ("not_ready", None)}


def test_outage_of_postgres_is_reported_once(servers: Servers, redis: Valkey) -> None:
    database = database_with_staff(servers.postgres, "causes", EMAIL, PASSWORD)
    with Proxy(servers.postgres.port) as proxy:
        url = database.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with (
            VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, WEB_CONCURRENCY="1") as app,
            closing(app.log_in(EMAIL, PASSWORD)) as staff,
        ):
            assert app.get("/ready")[0] == 200
            app.wait_for_checks()
            proxy.mode = "refuse"
            status, _, body = app.get("/ready")
            report = json.loads(body)["error"]["details"]
            found = {name: item["reason"] for name, item in report["dependencies"].items() if item["reason"]}
            assert (status, report["status"]) == (503, "not_ready")
            assert found == dict.fromkeys(("postgres", "migrations", "queue"), "connection_refused")

            page = staff.get("/admin/status/part").text
            rows = [page.index(f'id="dependency-{name}"') for name in ("postgres", "migrations", "redis")]
            assert rows == sorted(rows)
            assert page.count("Not checked, postgres is down") == 2
            assert "Not healthy: postgres (connection_refused)." in page
            outages = page.split('id="outages"')[1].split("</table>")[0]
            assert outages.count("<code>") == 1

            login = app.get("/admin/login/")[2].decode()
            assert login.count("Not checked, postgres is down") == 2

            metrics = app.get("/metrics")[2].decode()
            assert 'dependency_up{dependency="postgres"} 0.0' in metrics
            assert 'dependency_up{dependency="migrations"} 1.0' in metrics
            assert 'failures_total{dependency="postgres",reason="connection_refused"}' in metrics
            assert 'failures_total{dependency="migrations"' not in metrics

            proxy.mode = "pass"
            assert succeeds_within(10, lambda: app.get("/ready")[0] == 200)
            lines = [message for message in app.log_messages() if "→" in message]
        assert {line.split(":")[0] for line in lines} == {"postgres"}
        assert lines[-1] == "postgres: unhealthy → healthy"
