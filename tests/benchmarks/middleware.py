"""What our middleware, with its log and its metrics, costs a request: `make benchmark`.

The cheapest view there is, `/`, behind our whole stack and behind none. Once as clients see it: two servers as
production runs them, one keep-alive connection, the median answer. Once inside one process, which tells what costs how
much. All take turns, so that a machine that slows down slows all of them. Exits 1 if the target is missed.
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
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

TARGET = 1.6
ROUNDS, SECONDS = (1, 0.2) if IS_SMOKE else (21, 0.5)
DEAD_END = "127.0.0.1:1"  # the view asks nobody
ENVIRONMENT: dict[str, Any] = {
    "VOICEASSIST_ENV": "production",
    "SECRET_KEY": "k" * 64,
    "ALLOWED_HOSTS": "localhost,127.0.0.1",
    "HTTPS_ONLY": "false",
    "DATABASE_URL": f"postgres://user:password@{DEAD_END}/name",
    "REDIS_URL": f"redis://{DEAD_END}",
    "QDRANT_URL": f"http://{DEAD_END}",
    "WEB_CONCURRENCY": "1",
    "DRAIN_SECONDS": "0",
}


def answer_time(app: VoiceAssistServer, seconds: float = SECONDS) -> float:
    """Returns the median, in microseconds."""
    command = ["-m", "tests.benchmarks.load", str(app.port), "/", "1", str(seconds)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["failed"] == 0, found
    return float(found["p50"]) * 1e6


def served() -> bool:
    with (
        VoiceAssistServer(**ENVIRONMENT) as ours,
        VoiceAssistServer(application="tests.benchmarks.bare:application", **ENVIRONMENT) as bare,
    ):
        for app in (ours, bare):
            answer_time(app)
        rounds = [(answer_time(ours), answer_time(bare)) for _ in range(ROUNDS)]
    with_all, with_none = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(ours / bare for ours, bare in rounds)
    print(f"`/` as served, µs: {with_all:.0f} behind our middleware, {with_none:.0f} behind none: {ratio:.2f}"
          f" ≤ {TARGET} {'' if ratio <= TARGET else 'MISSED'}")  # fmt: skip
    return ratio <= TARGET


def inside() -> None:
    """Tells the processor time of a request, without a server, for ever more middleware."""
    os.environ |= ENVIRONMENT
    os.environ["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
    from health.multiprocess import metric_files

    metric_files.create()  # metrics are written to files, as under gunicorn

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

    def cost(call: Callable[[], Any], times: int = 100) -> float:
        began = time.process_time()
        for _ in range(times):
            call()
        return (time.process_time() - began) / times * 1e6

    def behind(*starts: str) -> Callable[[], None]:
        settings.MIDDLEWARE = [name for name in everything if name.startswith(starts)]
        handler = WSGIHandler()
        return lambda: request(handler)

    from core import metrics
    from core.http.prometheus import PrometheusAfterMiddleware

    everything = list(settings.MIDDLEWARE)
    prometheus = ("django_prometheus.", "core.http.prometheus.")
    counter = PrometheusAfterMiddleware(lambda request: None).metrics.responses_streaming
    histogram = metrics.REDIS_CALLS.labels("GET", "ok")
    subjects: dict[str, Callable[[], Any]] = {
        "none": behind("-"),
        "our request's own: trace id, log, one metric": behind("core.http.request_"),
        "django-prometheus'": behind(*prometheus),
        "all": behind(""),
        "a counter": counter.inc,
        "a histogram": lambda: histogram.observe(0.003),
    }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(1 if IS_SMOKE else 40):
        for name, call in subjects.items():
            times[name].append(cost(call))
    print("`/` in one process, µs of the processor (the log goes nowhere):")
    for name, found in times.items():
        print(f"  {name:<46} {statistics.median(found):7.1f}")
    metric_files.remove()


if __name__ == "__main__":
    if sys.argv[1:] == ["inside"]:
        inside()
    else:
        good = served()
        # Its stderr is the log. No static files are collected here: WhiteNoise warns of it.
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "inside"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        sys.exit(not (good or IS_SMOKE))
