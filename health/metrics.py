"""Prometheus metrics of the last readiness checks. A scrape starts no check."""

import platform
from collections.abc import Collection, Mapping

import django
from django.conf import settings
from prometheus_client import Counter, Gauge, Histogram

from health.check_runner import Report

_UP = Gauge(
    "voiceassist_dependency_up",
    "1 if the last check of the dependency succeeded, otherwise 0.",
    ["dependency"],
    multiprocess_mode="mostrecent",
)
_DURATION = Histogram(
    "voiceassist_dependency_check_duration_seconds",
    "Duration of the checks of the dependency.",
    ["dependency"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
)
_FAILURES = Counter(
    "voiceassist_dependency_check_failures_total",
    "Failed checks of the dependency, by reason.",
    ["dependency", "reason"],
)
_READY = Gauge(
    "voiceassist_ready",
    "1 if the last report was ready or degraded, otherwise 0.",
    multiprocess_mode="mostrecent",
)
_CERTIFICATE_EXPIRY = Gauge(
    "voiceassist_dependency_certificate_expiry_timestamp_seconds",
    "When the TLS certificate of the dependency expires, as Unix time.",
    ["dependency"],
    multiprocess_mode="mostrecent",
)
_SERVER_CONNECTIONS = Gauge(
    "voiceassist_database_server_connections",
    "Connections of all clients of PostgreSQL: used, reserved for superusers, and the maximum (with the reserved).",
    ["state"],
    multiprocess_mode="mostrecent",
)
DATABASE_WARNINGS = (
    *("logs_values", "connection_limit", "password_expires"),
    *("audit_trigger_missing", "audit_role_too_powerful"),
)
_DATABASE_WARNING = Gauge(
    "voiceassist_database_warning",
    "1 if the last look at the database server found this problem, which does not make it unready, otherwise 0.",
    ["kind"],
    multiprocess_mode="mostrecent",
)
for _kind in DATABASE_WARNINGS:
    _DATABASE_WARNING.labels(_kind)
_WORKERS = Gauge(
    "voiceassist_job_workers",
    "Workers for background jobs that reported within 30 seconds before the last check of the queue.",
    multiprocess_mode="mostrecent",
)
_DUE = Gauge(
    "voiceassist_jobs_due",
    "Background jobs that wait for a worker, at most 10,000, at the last check of the queue.",
    multiprocess_mode="mostrecent",
)
_OLDEST = Gauge(
    "voiceassist_job_oldest_seconds",
    "How long the oldest due background job had waited at the last check of the queue; 0 if none was due.",
    multiprocess_mode="mostrecent",
)
_FAILED = Gauge(
    "voiceassist_jobs_failed",
    "Background jobs that failed for good in the last day, and scheduled ones whose last run failed.",
    multiprocess_mode="mostrecent",
)
Gauge(
    "voiceassist_build_info",
    "Versions of the running server; always 1.",
    ["version", "commit", "python", "django"],
    multiprocess_mode="livemax",
).labels(settings.VERSION, settings.COMMIT or "unknown", platform.python_version(), django.__version__).set(1)


def measure(report: Report) -> None:
    """Set the metrics of each dependency that was checked. Others keep their values, so that one outage counts once."""
    for result in report.results:
        if result.cause:
            continue
        _UP.labels(result.name).set(result.healthy)
        _DURATION.labels(result.name).observe(result.latency_ms / 1000)
        if result.reason:
            _FAILURES.labels(result.name, result.reason).inc()
        if result.certificate_expires_at is not None:
            _CERTIFICATE_EXPIRY.labels(result.name).set(result.certificate_expires_at)
    set_ready(report.status != "not_ready")


def measure_database_warnings(found: Collection[str]) -> None:
    for kind in DATABASE_WARNINGS:
        _DATABASE_WARNING.labels(kind).set(kind in found)


def measure_server_connections(counts: Mapping[str, int]) -> None:
    for state, count in counts.items():
        _SERVER_CONNECTIONS.labels("max" if state == "maximum" else state).set(count)


def measure_jobs(workers: int | None, due: int | None, oldest_seconds: float | None, failed: int | None) -> None:
    """Set the gauges whose values are known."""
    for gauge, value in ((_WORKERS, workers), (_DUE, due), (_OLDEST, oldest_seconds), (_FAILED, failed)):
        if value is not None:
            gauge.set(value)


def set_ready(ready: bool) -> None:
    _READY.set(ready)
