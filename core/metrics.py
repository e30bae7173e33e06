"""What the application itself measures. No label ever holds what a client sent, else each client could make series.

Initial values are given where the labels are known: a series that begins with its first failure can't be seen to rise.
"""

from django.http import HttpRequest, HttpResponse
from prometheus_client import Gauge, Histogram

# RFC 9110 and 5789. Any other word is refused before a metric is labelled with it.
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

_CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_REQUESTS = Histogram(
    "voiceassist_http_request_duration_seconds",
    "How long answers took, by URL pattern. Probes and scrapes that succeed are left out.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DATABASE_CONNECTIONS = Gauge(
    "voiceassist_database_connections",
    "Connections of requests to PostgreSQL: open, in use by a request right now, and the most there may be.",
    ["state"],
    multiprocess_mode="livesum",
)
REDIS_CALLS = Histogram(
    "voiceassist_redis_call_duration_seconds",
    "How long calls of Redis took. Those of readiness are not in it.",
    ["command", "outcome"],
    buckets=_CALL_BUCKETS,
)
QDRANT_CALLS = Histogram(
    "voiceassist_qdrant_call_duration_seconds",
    "How long calls of Qdrant took, by HTTP method. Those of readiness are not in it.",
    ["method", "outcome"],
    buckets=_CALL_BUCKETS,
)
for _outcome in ("ok", "error"):
    for _command in ("GET", "SET"):
        REDIS_CALLS.labels(_command, _outcome)
    for _method in ("GET", "POST", "PUT", "DELETE"):
        QDRANT_CALLS.labels(_method, _outcome)


def observe(request: HttpRequest, response: HttpResponse, seconds: float) -> None:
    method = request.method if request.method in METHODS else "other"
    match = request.resolver_match
    route = (match.route or "/") if match else "unmatched"  # an empty label would be none
    _REQUESTS.labels(method, route, response.status_code).observe(seconds)
