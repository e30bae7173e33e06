"""A real Prometheus scrapes a real server: an outage fires its alerts, and the dashboard has something to show."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from http.cookiejar import CookieJar
from math import isnan

import pytest

from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.prometheus import OPS, Prometheus, needs_prometheus
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

pytestmark = needs_prometheus

DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "voiceassist.json").read_text())
EMAIL, PASSWORD, TOKEN = "staff@example.org", "correct horse battery", "token-of-the-test"
OUTAGE = {"VoiceAssistRedisDown", "VoiceAssistNotReady"}
# No endpoint asks Qdrant yet, beside readiness: its series are there, and there is no percentile of nothing.
QUIET = "histogram_quantile(0.95, sum by (le, method) (rate(voiceassist_qdrant_call_duration_seconds_bucket"

PREPARE = f"""
import django
django.setup()
from django.core.management import call_command
from core.models import User
call_command("migrate", verbosity=0)
User.objects.create_superuser({EMAIL!r}, {PASSWORD!r})
"""


def within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < end:
        time.sleep(0.2)
    return done


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    redis = Valkey(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def postgres(servers: Servers) -> Iterator[Proxy]:
    """Leads to a database of this module's own, with all migrations and somebody who can log in."""
    servers.postgres.execute("CREATE DATABASE observed")
    with Proxy(servers.postgres.port) as proxy:
        yield proxy
    servers.postgres.execute("DROP DATABASE observed WITH (FORCE)")


@pytest.fixture(scope="module")
def app(servers: Servers, postgres: Proxy, redis: Valkey) -> Iterator[VoiceAssistServer]:
    """Under constant probing, as by an orchestrator: a scrape starts no check."""
    url = servers.postgres.url.replace(f":{servers.postgres.port}/tests", f":{postgres.port}/observed")
    environment = {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    subprocess.run([sys.executable, "-c", PREPARE], env={**os.environ, **environment}, cwd=ROOT, check=True)
    over = threading.Event()
    with VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, METRICS_TOKEN=TOKEN, HEALTH_MAX_AGE="0.1") as app:

        def probe() -> None:
            while not over.wait(0.2):
                try:
                    app.get("/ready")
                except (OSError, HTTPException):
                    continue

        prober = threading.Thread(target=probe)
        prober.start()
        yield app
        over.set()
        prober.join()


@pytest.fixture(scope="module")
def prometheus(app: VoiceAssistServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), target=app.port, token=TOKEN)
    prometheus.start()
    try:
        assert within(20, lambda: bool(prometheus.query("up == 1 and voiceassist_ready == 1"))), app.log()[-2000:]
        yield prometheus
    finally:
        prometheus.kill()


class Visitor:
    """Somebody with a browser."""

    def __init__(self, app: VoiceAssistServer) -> None:
        self.url = app.url
        self.cookies = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def visit(self, path: str, form: dict[str, str] | None = None) -> int:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with self._opener.open(self.url + path, data, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def log_in(self, password: str) -> int:
        self.visit("/admin/login/")
        token = next(cookie.value for cookie in self.cookies if cookie.name == "csrftoken") or ""
        form = {"username": EMAIL, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        return self.visit("/admin/login/", form)


def test_an_outage_fires_its_alerts_and_its_end_resolves_them(prometheus: Prometheus, redis: Valkey) -> None:
    assert not OUTAGE & set(prometheus.firing())
    redis.stop()
    try:
        assert within(30, lambda: set(prometheus.firing()) >= OUTAGE), prometheus.firing()
        for alert in OUTAGE:
            labels = prometheus.firing()[alert]
            assert (labels["instance"], labels["job"]) == (prometheus.instance, "voiceassist-server")
            assert labels["severity"] == "critical"
        others = {"VoiceAssistPostgresDown", "VoiceAssistQdrantDown", "VoiceAssistMigrationsPending"}
        assert not others & set(prometheus.firing())
    finally:
        redis.start()
    assert within(30, lambda: not OUTAGE & set(prometheus.firing())), prometheus.firing()


def show(prometheus: Prometheus, expression: str) -> list[float]:
    """Returns what a panel would show. The interval holds all that was measured in this module."""
    for variable, value in {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    values = [float(found["value"][1]) for found in prometheus.query(expression)]
    return [value for value in values if not isnan(value) or expression.startswith(QUIET)]


@pytest.fixture(scope="module")
def traffic(prometheus: Prometheus, app: VoiceAssistServer, postgres: Proxy) -> None:
    """Some of everything that is counted. Twice: of a counter that is new, what came first is no increase."""
    visitor = Visitor(app)
    for _ in range(2):
        assert visitor.visit("/") == 200
        assert visitor.visit("/nothing") == 404
        assert visitor.visit("/", {}) == 405
        assert visitor.log_in("wrong") == 200
        postgres.mode = "refuse"
        try:
            assert visitor.log_in(PASSWORD) == 503
            assert within(20, lambda: "connection_refused" in app.get("/ready")[2].decode())
        finally:
            postgres.mode = "pass"
        assert within(20, lambda: app.get("/ready")[0] == 200)
        assert visitor.log_in(PASSWORD) == 200
        assert visitor.visit("/admin/core/message/") == 200


def test_every_query_of_the_dashboard_has_something_to_show(prometheus: Prometheus, traffic: None) -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    within(10, lambda: all(show(prometheus, query) for query in queries))
    assert [query for query in queries if not show(prometheus, query)] == []


def test_the_variables_of_the_dashboard_have_values(prometheus: Prometheus) -> None:
    queries = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        found = prometheus.query(metric.replace("$job", ".+"))
        assert {series["metric"][label] for series in found} <= {"voiceassist-server", prometheus.instance}
        assert found, query


def test_no_alert_waits_for_a_metric_that_nobody_writes(prometheus: Prometheus, traffic: None) -> None:
    rules = (OPS / "prometheus" / "alerts.yml").read_text()
    names = set(re.findall(r"\bvoiceassist_\w+", rules))
    assert len(names) > 5
    within(10, lambda: all(prometheus.query(name) for name in names))
    assert {name for name in names if not prometheus.query(name)} == set()


def test_a_duration_above_five_seconds_can_be_told_from_one_below(prometheus: Prometheus, traffic: None) -> None:
    """Else the percentile never comes above the highest bound."""
    expression = "count by (le) (voiceassist_http_request_duration_seconds_bucket)"
    assert within(10, lambda: bool(prometheus.query(expression)))
    found = prometheus.query(expression)
    bounds = {float(series["metric"]["le"]) for series in found}
    assert 5 in bounds
    assert any(5 < bound < float("inf") for bound in bounds)
