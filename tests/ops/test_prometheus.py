"""A real Prometheus scrapes a real server and worker: outages fire alerts, and every dashboard query returns data."""

import json
import re
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from http.cookiejar import CookieJar
from math import isnan

import pytest
import trustme

from tests.support.dependency_servers import Valkey, as_application, free_port
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.prometheus import OPS, Prometheus, needs_prometheus
from tests.support.proxy import Proxy, TlsProxy
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff
from tests.support.worker_process import WorkerProcess

pytestmark = needs_prometheus

DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "voiceassist.json").read_text())
EMAIL, PASSWORD, TOKEN = "staff@example.org", "correct horse battery", "token-of-the-test"
OUTAGE = {"VoiceAssistRedisDown", "VoiceAssistNotReady"}
# No endpoint calls Qdrant yet, so the percentiles of its calls are NaN.
NAN_QUERY = "histogram_quantile(0.95, sum by (le, method) (rate(voiceassist_qdrant_call_duration_seconds_bucket"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def redis_url(redis: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a URL with TLS, because otherwise no dependency would have a certificate."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with TlsProxy(redis.port, context) as proxy:
        url = redis.url.replace("redis:", "rediss:").replace(f":{redis.port}", f":{proxy.port}")
        yield f"{url}?ssl_ca_certs={file}"


@pytest.fixture(scope="module")
def postgres(servers: Servers) -> Iterator[Proxy]:
    """Forward to a separate, migrated database with a superuser."""
    database_with_staff(servers.postgres, "observed", EMAIL, PASSWORD)
    with Proxy(servers.postgres.port) as proxy:
        yield proxy
    servers.postgres.execute("DROP DATABASE observed WITH (FORCE)")


@pytest.fixture(scope="module")
def app(servers: Servers, postgres: Proxy, redis_url: str) -> Iterator[VoiceAssistServer]:
    """Yield a server that is probed continuously, as by an orchestrator, because a scrape does not run the checks."""
    url = servers.postgres.url.replace(f":{servers.postgres.port}/tests", f":{postgres.port}/observed")
    is_stopping = threading.Event()
    url = as_application(url)
    with VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis_url, METRICS_TOKEN=TOKEN, HEALTH_MAX_AGE="0.1") as app:

        def probe() -> None:
            while not is_stopping.wait(0.2):
                try:
                    app.get("/ready")
                except (OSError, HTTPException):
                    continue

        prober = threading.Thread(target=probe)
        prober.start()
        yield app
        is_stopping.set()
        prober.join()


@pytest.fixture(scope="module")
def worker(app: VoiceAssistServer, servers: Servers, redis: Valkey) -> Iterator[WorkerProcess]:
    """Yield a worker of the server's database, which it does not reach through the proxy."""
    url = as_application(servers.postgres.url.replace("/tests", "/observed"))
    with WorkerProcess(port=free_port(), DATABASE_URL=url, REDIS_URL=redis.url, METRICS_TOKEN=TOKEN) as worker:
        yield worker


@pytest.fixture(scope="module")
def prometheus(
    app: VoiceAssistServer, worker: WorkerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, target=app.port, worker=worker.port, token=TOKEN) as prometheus:
        assert succeeds_within(20, lambda: prometheus.query("up == 1 and voiceassist_ready == 1")), app.log()[-2000:]
        assert succeeds_within(20, lambda: prometheus.query("voiceassist_job_workers == 1")), worker.log()
        yield prometheus


class Visitor:
    """An HTTP client that keeps cookies and can log in."""

    def __init__(self, app: VoiceAssistServer) -> None:
        self.url = app.url
        self.cookies = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def visit(self, path: str, form: dict[str, str] | None = None) -> int:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with self._opener.open(self.url + path, data, timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def log_in(self, password: str) -> int:
        self.visit("/admin/login/")
        token = next(cookie.value for cookie in self.cookies if cookie.name == "csrftoken") or ""
        form = {"username": EMAIL, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        return self.visit("/admin/login/", form)


def test_outage_fires_alerts_and_recovery_resolves_them(prometheus: Prometheus, redis: Valkey) -> None:
    assert not OUTAGE & set(prometheus.firing())
    redis.stop()
    try:
        assert succeeds_within(30, lambda: set(prometheus.firing()) >= OUTAGE), prometheus.firing()
        for alert in OUTAGE:
            labels = prometheus.firing()[alert]
            assert (labels["instance"], labels["job"]) == (prometheus.instance, "voiceassist-server")
            assert labels["severity"] == "critical"
        unrelated = {"VoiceAssistPostgresDown", "VoiceAssistQdrantDown", "VoiceAssistMigrationsPending"}
        assert not unrelated & set(prometheus.firing())
    finally:
        redis.start()
    assert succeeds_within(30, lambda: not OUTAGE & set(prometheus.firing())), prometheus.firing()


def test_worker_exports_no_readiness_of_a_server(prometheus: Prometheus, worker: WorkerProcess) -> None:
    """They would be 0, so that VoiceAssistNotReady and VoiceAssistNoWorker would fire."""
    assert succeeds_within(20, lambda: prometheus.query('up{job="voiceassist-worker"} == 1'))
    assert worker.get("/metrics")[0] == 401
    status, text = worker.get("/metrics", token=TOKEN)
    assert status == 200
    assert "voiceassist_job_duration_seconds" in text
    for name in ("ready", "dependency", "job_workers", "jobs_due", "job_oldest", "jobs_failed", "database_warning"):
        assert f"voiceassist_{name}" not in text


def test_missing_worker_fires_an_alert(prometheus: Prometheus, worker: WorkerProcess, app: VoiceAssistServer) -> None:
    assert not {"VoiceAssistNoWorker", "VoiceAssistJobsStuck", "VoiceAssistJobsFail"} & set(prometheus.firing())
    assert worker.stop() == 0
    try:
        assert succeeds_within(40, lambda: "VoiceAssistNoWorker" in prometheus.firing()), app.get("/ready")
        assert app.get("/ready")[0] == 200
    finally:
        worker.start()
    assert succeeds_within(40, lambda: "VoiceAssistNoWorker" not in prometheus.firing()), app.get("/ready")


def panel_values(prometheus: Prometheus, expression: str) -> list[float]:
    """Return the values that a panel would show, over an interval that covers this whole module."""
    for variable, value in {"$__rate_interval": "10m", "$job": ".+", "$instance": ".+"}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    values = [float(series["value"][1]) for series in prometheus.query(expression)]
    return [value for value in values if not isnan(value) or expression.startswith(NAN_QUERY)]


@pytest.fixture(scope="module")
def traffic(prometheus: Prometheus, app: VoiceAssistServer, postgres: Proxy) -> None:
    """Produce every kind of event, twice, because the first increment of a new counter is no increase."""
    visitor = Visitor(app)
    for _ in range(2):
        assert visitor.visit("/") == 200
        assert visitor.visit("/nothing") == 404
        assert visitor.visit("/", {}) == 405
        assert visitor.log_in("wrong") == 200
        postgres.mode = "refuse"
        try:
            assert visitor.log_in(PASSWORD) == 503
            assert succeeds_within(20, lambda: "connection_refused" in app.get("/ready")[2].decode())
        finally:
            postgres.mode = "pass"
        assert succeeds_within(20, lambda: app.get("/ready")[0] == 200)
        assert succeeds_within(20, lambda: visitor.log_in(PASSWORD) == 200)  # the other worker may recover later
        assert visitor.visit("/admin/core/message/") == 200


def test_every_dashboard_query_returns_data(prometheus: Prometheus, traffic: None) -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    succeeds_within(10, lambda: all(panel_values(prometheus, query) for query in queries))
    assert [query for query in queries if not panel_values(prometheus, query)] == []


def test_dashboard_variables_have_values(prometheus: Prometheus) -> None:
    queries = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        results = prometheus.query(metric.replace("$job", ".+"))
        assert {series["metric"][label] for series in results} <= {"voiceassist-server", prometheus.instance}
        assert results, query


def test_every_metric_of_the_alerts_exists(prometheus: Prometheus, traffic: None) -> None:
    rules = (OPS / "prometheus" / "alerts.yml").read_text()
    names = set(re.findall(r"\bvoiceassist_\w+", rules))
    assert len(names) > 5
    succeeds_within(60, lambda: all(prometheus.query(name) for name in names))
    assert {name for name in names if not prometheus.query(name)} == set()


def test_histogram_has_buckets_above_the_latency_alert(prometheus: Prometheus, traffic: None) -> None:
    """Otherwise the computed percentile could never exceed the alert's threshold."""
    expression = "count by (le) (voiceassist_http_request_duration_seconds_bucket)"
    assert succeeds_within(10, lambda: prometheus.query(expression))
    results = prometheus.query(expression)
    bounds = {float(series["metric"]["le"]) for series in results}
    assert 5 in bounds
    assert any(5 < bound < float("inf") for bound in bounds)
