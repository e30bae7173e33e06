"""The time that our middleware, with logging and metrics, adds to a request: `make benchmark`.

The cheapest view, `/`, is measured with all of our middleware and with none: as clients see it, with two servers that
run as in production and one keep-alive connection, and inside one process, which shows the cost of each part. The
subjects alternate, so that a slow phase of the machine affects all of them. Exits 1 if the target is missed.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.smoke import IS_SMOKE
from tests.support.load_settings import KEY
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

TARGET = 1.4
ROUNDS, SECONDS = (1, 0.2) if IS_SMOKE else (21, 0.5)
CLOSED_PORT = "127.0.0.1:1"  # the view uses no dependency
ENVIRONMENT: dict[str, Any] = {
    "VOICEASSIST_ENV": "production",
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "localhost,127.0.0.1",
    "HTTPS_ONLY": "false",
    "DATABASE_URL": f"postgres://user:password@{CLOSED_PORT}/name",
    "REDIS_URL": f"redis://{CLOSED_PORT}",
    "QDRANT_URL": f"http://{CLOSED_PORT}",
    "WEB_CONCURRENCY": "1",
    "DRAIN_SECONDS": "0",
    "LOG_FORMAT": "json",
}


def response_time(app: VoiceAssistServer, seconds: float = SECONDS) -> float:
    """Return the median in microseconds."""
    command = ["-m", "tests.benchmarks.load", str(app.port), "/", "1", str(seconds)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    measurement = json.loads(done.stdout)
    assert measurement["failed"] == 0, measurement
    return float(measurement["p50"]) * 1e6


def measure_servers() -> bool:
    """Print the times of both servers, and return whether the target is met."""
    with (
        VoiceAssistServer(python=sys.executable, **ENVIRONMENT) as ours,
        VoiceAssistServer(
            python=sys.executable, application="tests.benchmarks.bare:application", **ENVIRONMENT
        ) as bare,
    ):
        for app in (ours, bare):
            response_time(app)
        rounds = [(response_time(ours), response_time(bare)) for _ in range(ROUNDS)]
    all_middleware, none = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    is_met = ratio <= TARGET
    print(f"`/` served, µs: {all_middleware:.0f} with our middleware, {none:.0f} without, ratio {ratio:.2f}")
    print(f"target: {TARGET} ({'met' if is_met else 'MISSED'})")
    return is_met


def measure_in_process() -> None:
    """Print the CPU time of a request without a server, for several sets of middleware."""
    from health.multiprocess import metric_files, runtime_folder

    runtime_folder.create()  # write metrics to files, as under gunicorn
    metric_files.start()

    import django

    django.setup()

    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory

    environment = RequestFactory().get("/", SERVER_NAME="localhost").environ

    def request(handler: Callable[..., Any]) -> None:
        response = handler({**environment, "wsgi.input": io.BytesIO()}, lambda status, headers: None)
        b"".join(response)
        response.close()

    def cost(call: Callable[[], Any], repetitions: int = 100) -> float:
        """Return the CPU time of one call in microseconds."""
        started_at = time.process_time()
        for _ in range(repetitions):
            call()
        return (time.process_time() - started_at) / repetitions * 1e6

    def with_middleware(*prefixes: str) -> Callable[[], None]:
        settings.MIDDLEWARE = [name for name in all_middleware if name.startswith(prefixes)]
        handler = WSGIHandler()
        return lambda: request(handler)

    from core import metrics
    from core.http.prometheus import PrometheusAfterMiddleware

    all_middleware = list(settings.MIDDLEWARE)
    prometheus = ("django_prometheus.", "core.http.prometheus.")
    counter = PrometheusAfterMiddleware(lambda request: None).metrics.responses_streaming
    histogram = metrics.REDIS_CALLS.labels("GET", "ok")
    subjects: dict[str, Callable[[], Any]] = {
        "none": with_middleware("-"),
        "ours: trace id, log, one metric": with_middleware("core.http.request_"),
        "django-prometheus": with_middleware(*prometheus),
        "all": with_middleware(""),
        "a counter": counter.inc,
        "a histogram": lambda: histogram.observe(0.003),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(1 if IS_SMOKE else 40):
        for name, call in subjects.items():
            times[name].append(cost(call))
    print("`/` in one process, µs of CPU time (the log goes to /dev/null):")
    for name, measured in times.items():
        print(f"  {name:<32} {statistics.median(measured):7.1f}")
    runtime_folder.remove()


if __name__ == "__main__":
    if sys.argv[1:] == ["in-process"]:
        measure_in_process()
    else:
        is_met = measure_servers()
        # Warnings are ignored, because WhiteNoise warns that static files are not collected. stderr is the log.
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "in-process"]
        environment = {**os.environ, **ENVIRONMENT, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        sys.exit(not (is_met or IS_SMOKE))
