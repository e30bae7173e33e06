"""Metrics are summed over all processes, including dead workers, and clients can't create series."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from django.conf import settings
from django.core.cache import cache
from prometheus_client import REGISTRY, Gauge
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from core import metrics as core_metrics
from core.clients import qdrant
from core.clients.redis import Client
from health import metrics
from tests.support.dependency_servers import free_port
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, ends_within, succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

SESSION = {"Cookie": "sessionid=" + "a" * 32}  # unknown: a request with it queries Redis and PostgreSQL


def scrape(app: VoiceAssistServer) -> dict[str, float]:
    status, _, body = app.get("/metrics")
    assert status == 200, body
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
    samples = {series: float(value) for series, value in lines}
    assert len(samples) == len(lines)  # no series appears twice
    return samples


def connections(app: VoiceAssistServer) -> dict[str, float]:
    samples = scrape(app)
    return {
        state: samples[f'voiceassist_database_connections{{state="{state}"}}'] for state in ("open", "in_use", "max")
    }


def request_count(app: VoiceAssistServer) -> float:
    """Return the number of successful requests to `/` in the metrics."""
    return scrape(app).get('voiceassist_http_request_duration_seconds_count{method="GET",route="/",status="200"}', 0)


def kill_workers(app: VoiceAssistServer) -> None:
    """Kill all three workers, and wait until they have been replaced."""
    dead = app.workers()
    for worker in dead:
        worker.kill()
    assert succeeds_within(10, lambda: len(set(app.workers()) - set(dead)) == 3)


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[Proxy]:
    with Proxy(servers.postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def app(servers: Servers, database: Proxy) -> Iterator[VoiceAssistServer]:
    url = servers.postgres.url.replace(f":{servers.postgres.port}", f":{database.port}")
    with VoiceAssistServer(WEB_CONCURRENCY="3", HEALTH_OPTIONAL="migrations", DATABASE_URL=url) as app:
        yield app


# Clients can't create series


def send_everywhere(app: VoiceAssistServer, word: str) -> None:
    """Send requests with the word in every place that a client controls."""
    headers = {
        **dict.fromkeys(("User-Agent", "Origin", "Referer", "X-Request-ID", "X-Forwarded-For", "X-" + word), word),
        **dict.fromkeys(("X-Forwarded-Proto", "X-Forwarded-Host", "X-Requested-With", "Authorization"), word),
        "Content-Type": f"text/{word}; charset={word}",
        "Accept": f"application/json; charset={word}, text/{word}",
        "Accept-Charset": word,
        "Accept-Language": word,
        "Cookie": f"{word}={word}; csrftoken={word}",
    }
    for method in (word, word.lower(), "PROPFIND", "MKCOL", "TRACE", "get"):
        app.get("/", method=method, headers=headers)
    for path in ("/", f"/{word}", f"/{word}/{word}", "/admin/", f"/admin/{word}/", f"/admin/core/user/{word}/change/",
                 "/admin/login/", "/api/schema/", "/api/docs/", f"/static/{word}.css", f"/health/{word}"):  # fmt: skip
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            app.get(f"{path}?{word}={word}", method=method, headers=headers)
    app.get("/", headers={"Host": f"{word}.example.org"})
    assert app.get("/", headers={"Content-Length": "9" * (300 + len(word))})[0] == 413


def test_clients_cannot_create_series(app: VoiceAssistServer) -> None:
    send_everywhere(app, "Xfirst")
    before = set(scrape(app))
    for word in ("XSECOND", "Xthird3", "X-FOURTH"):
        send_everywhere(app, word)
    samples = scrape(app)
    assert set(samples) == before
    assert not [series for series in samples if re.search("xfirst|xsecond|xthird|propfind", series, re.IGNORECASE)]
    assert samples["django_http_requests_body_total_bytes_sum"] < 1e6  # a false Content-Length is not added
    refused = 'voiceassist_http_request_duration_seconds_count{method="other",route="unmatched",status="405"}'
    assert samples[refused] > 4


def test_requests_are_labelled_by_route_and_probes_are_excluded(app: VoiceAssistServer) -> None:
    for path in ("/", "/health", "/ready", "/metrics", "/admin/core/user/", "/nothing"):
        app.get(path)
    all_series = [name for name in scrape(app) if name.startswith("voiceassist_http_request_duration_seconds_count")]
    routes = {match[1] for series in all_series if (match := re.search('route="([^"]*)"', series))}
    assert {"/", "admin/core/user/", "unmatched"} <= routes
    assert not routes & {"", "health", "ready", "metrics"}
    assert 'voiceassist_http_request_duration_seconds_bucket{le="10.0",method="GET",route="/",status="200"}' in scrape(
        app
    )


def test_promtool_reports_no_problem(app: VoiceAssistServer) -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("needs promtool (Debian: prometheus)")
    assert promtool
    app.get("/ready")
    app.get("/admin/", headers=SESSION)
    text = app.get("/metrics")[2]
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# Several processes


def test_counters_survive_dead_workers_and_files_do_not_accumulate(app: VoiceAssistServer) -> None:
    stop, counts, errors = threading.Event(), [0.0], list[str]()

    def keep_scraping() -> None:
        while not stop.is_set():
            try:
                count = request_count(app)
            except (AssertionError, KeyError) as error:
                errors.append(str(error))
            except Exception:  # the worker with the connection was killed
                continue
            else:
                if count < counts[-1]:
                    errors.append(f"{count} after {counts[-1]}")
                counts.append(count)

    before = request_count(app)
    thread = threading.Thread(target=keep_scraping)
    thread.start()
    requests = 0
    try:
        for _ in range(8):
            for _ in range(20):
                requests += app.get("/")[0] == 200
            kill_workers(app)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert len(counts) > 1
    assert request_count(app) - before == requests
    (folder,) = app.runtime_folders()
    owners = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}
    assert owners <= {"merged", str(app.process.pid), *(str(worker.pid) for worker in app.workers())}
    assert len(list(folder.glob("*_merged.db"))) == 3  # counters, histograms, gauges with the latest value
    assert connections(app)["max"] == 3 * 4


def test_latest_readiness_outlives_the_worker_that_measured_it(app: VoiceAssistServer) -> None:
    app.get("/ready")
    kill_workers(app)
    samples = scrape(app)
    assert samples["voiceassist_ready"] == 1
    assert samples['voiceassist_dependency_up{dependency="migrations"}'] == 0


def test_scrape_during_merges_is_consistent() -> None:
    command = [sys.executable, "-m", "tests.support.worker_churn", "100", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50 * SLOWNESS)
    assert done.returncode == 0, done.stdout + done.stderr
    files, totals = done.stdout.splitlines()
    assert files == str([
        "counter_merged.db", "gauge_livesum_master.db", "gauge_mostrecent_master.db", "gauge_mostrecent_merged.db",
        "histogram_merged.db",
    ])  # fmt: skip
    assert totals == str(
        {"deaths_total": 100.0, "times_count": 100.0, "times_bucket": 300.0, "latest": 100.0, "living": 0.0}
    )


def test_every_gauge_has_a_mode_that_can_be_merged() -> None:
    gauges = [
        gauge for module in (metrics, core_metrics) for gauge in vars(module).values() if isinstance(gauge, Gauge)
    ]
    assert len(gauges) == 10
    for gauge in gauges:
        assert gauge._multiprocess_mode in ("livemax", "livesum", "mostrecent"), gauge


def test_damaged_file_is_skipped_and_later_removed(app: VoiceAssistServer) -> None:
    """Otherwise it would fail every scrape, and the files after it would not be merged."""
    app.get("/")
    before = request_count(app)
    (folder,) = app.runtime_folders()
    broken = folder / "counter_999999.db"
    incomplete = folder / "counter_999998.db"
    incomplete.write_bytes(bytes.fromhex("ffff0000") + bytes(100))
    broken.write_bytes(b"broken" * 1000)
    assert request_count(app) == before
    kill_workers(app)
    assert not broken.exists()
    assert not incomplete.exists()
    assert request_count(app) == before
    for path in (broken, incomplete):
        assert f"metrics of dead workers are lost: {path.name} was damaged" in app.log()


def test_next_server_removes_the_folder_of_a_killed_one() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1") as first:
        (folder,) = first.runtime_folders()
        with VoiceAssistServer(WEB_CONCURRENCY="1", DRAIN_SECONDS="0") as second:
            assert folder.exists()  # in use
            scrape(first)
            second.terminate()
            assert second.process.wait(10) == 0
        assert folder.exists()
        processes = [psutil.Process(first.process.pid), *first.workers()]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes[1:], 10)
        first.process.wait(10)
        with VoiceAssistServer(WEB_CONCURRENCY="1") as third:
            assert not folder.exists()
            assert len(third.runtime_folders()) == 1


def test_management_command_creates_no_metric_files(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "manage.py", "check"], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []


# Calls to dependencies


def test_database_connections_are_counted_also_while_it_hangs(app: VoiceAssistServer, database: Proxy) -> None:
    for _ in range(20):
        app.get("/admin/", headers=SESSION)
    assert succeeds_within(5, lambda: connections(app)["in_use"] == 0)
    assert 1 <= connections(app)["open"] <= 12
    database.mode = "silent"
    slow = [threading.Thread(target=_ignore_outcome, args=(app,)) for _ in range(2)]
    for thread in slow:
        thread.start()
    try:
        assert succeeds_within(5, lambda: connections(app)["in_use"] == 2)
        with ends_within(1):
            scrape(app)
    finally:
        database.mode = "reset"
        for thread in slow:
            thread.join(20)
        database.mode = "pass"
    assert succeeds_within(5, lambda: connections(app)["in_use"] == 0)
    assert connections(app)["open"] <= 12
    kill_workers(app)
    assert succeeds_within(5, lambda: connections(app) == {"open": 0, "in_use": 0, "max": 12})


def _ignore_outcome(app: VoiceAssistServer) -> None:
    app.get("/admin/", headers=SESSION, timeout=20)


def calls(metric: str, label: str, value: str, outcome: str) -> float:
    name = f"voiceassist_{metric}_call_duration_seconds_count"
    return REGISTRY.get_sample_value(name, {label: value, "outcome": outcome}) or 0


def test_calls_to_redis_are_measured() -> None:
    def count(command: str, outcome: str = "ok") -> float:
        return calls("redis", "command", command, outcome)

    before = {command: count(command) for command in ("GET", "SET", "DEL", "pipeline", "other")}
    cache.set("a", 1)
    assert cache.get("a") == 1
    cache.set_many({"b": 1, "c": 2})
    cache.delete("a")
    Client.from_url(settings.REDIS_URL).execute_command("ECHO", "b")  # type: ignore[no-untyped-call]
    assert {command: count(command) - seen for command, seen in before.items()} == dict.fromkeys(before, 1)

    failed = count("GET", "error")
    elsewhere = Client(host="127.0.0.1", port=free_port(), retry=Retry(NoBackoff(), 0))
    with pytest.raises(RedisConnectionError):
        elsewhere.get("a")
    assert count("GET", "error") == failed + 1


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_calls_to_qdrant_are_measured(servers: Servers) -> None:
    def count(outcome: str) -> float:
        return calls("qdrant", "method", "GET", outcome)

    qdrant._network_client.cache_clear()
    succeeded, failed = count("ok"), count("error")
    try:
        with qdrant.client() as client:
            client.get_collections()
            assert (count("ok"), count("error")) == (succeeded + 1, failed)
            servers.qdrant.fault = "500"
            with pytest.raises(UnexpectedResponse):
                client.get_collections()
            servers.qdrant.fault = "reset"
            with pytest.raises(ResponseHandlingException):
                client.get_collections()
            assert (count("ok"), count("error")) == (succeeded + 1, failed + 2)
    finally:
        servers.qdrant.fault = None
        qdrant._network_client.cache_clear()
