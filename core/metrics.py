"""Prometheus metrics of the application.

Labels never contain client input, because a client could otherwise create any number of series. Known label values are
initialised to 0, because `rate()` misses the first increment of a new series.
"""

from django.http import HttpRequest, HttpResponse
from prometheus_client import Counter, Gauge, Histogram

# The methods of RFC 9110 and RFC 5789 that may become label values. All others are counted as "other".
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

_CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_REQUESTS = Histogram(
    "voiceassist_http_request_duration_seconds",
    "Time to respond to requests, by URL pattern. Excludes successful probes and scrapes.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DATABASE_CONNECTIONS = Gauge(
    "voiceassist_database_connections",
    "PostgreSQL connections for requests: open, in use by a request, and the maximum.",
    ["state"],
    multiprocess_mode="livesum",
)
REDIS_CALLS = Histogram(
    "voiceassist_redis_call_duration_seconds",
    "Duration of Redis calls. Excludes readiness checks.",
    ["command", "outcome"],
    buckets=_CALL_BUCKETS,
)
QDRANT_CALLS = Histogram(
    "voiceassist_qdrant_call_duration_seconds",
    "Duration of Qdrant calls, by HTTP method. Excludes readiness checks.",
    ["method", "outcome"],
    buckets=_CALL_BUCKETS,
)
JOBS = Counter("voiceassist_jobs", "Background jobs that a worker ran, by task and outcome.", ["task", "outcome"])
JOB_DURATION = Histogram(
    "voiceassist_job_duration_seconds",
    "Duration of background jobs, by task.",
    ["task"],
    buckets=(0.01, 0.1, 1, 10, 60, 600, 3600),
)
REVEALS = Counter("voiceassist_reveals", "Requests to reveal or export PHI that the audit trail records.", ["outcome"])
for _outcome in ("revealed", "exported", "refused", "code_required"):
    REVEALS.labels(_outcome)
for _outcome in ("ok", "error"):
    for _command in ("GET", "SET"):
        REDIS_CALLS.labels(_command, _outcome)
    for _method in ("GET", "POST", "PUT", "DELETE"):
        QDRANT_CALLS.labels(_method, _outcome)


def observe(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
    method = request.method if request.method in METHODS else "other"
    match = request.resolver_match
    route = (match.route or "/") if match else "unmatched"  # Prometheus treats an empty label as missing
    _REQUESTS.labels(method, route, response.status_code).observe(seconds)
