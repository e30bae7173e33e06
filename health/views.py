"""`/health`, `/ready` and `/metrics`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import prometheus_client
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from prometheus_client import Metric
from prometheus_client.registry import Collector
from rest_framework.views import APIView

from core.api.envelope import encode, encoded_response, failure_response
from core.api.error_codes import ErrorCode
from core.api.openapi import COMMON_RESPONSES, error_response, success_response
from core.http import metrics_token
from health import metrics, readiness
from health.check_runner import Report, Result
from health.multiprocess import metric_files, process_metrics, runtime_folder
from health.serializers import LivenessSerializer, ReportSerializer

_ALIVE = {"status": "healthy", "service": settings.SERVICE, "version": settings.VERSION}
_ENCODED_ALIVE = encode(_ALIVE)


def _example(**reasons: str) -> dict[str, object]:
    """Return a sample report. Dependencies without a reason are healthy."""
    latencies = {"postgres": 0.8, "redis": 0.4, "qdrant": 1.9, "migrations": 0.7, "queue": 1.1}
    results = (
        Result(name, name not in settings.ALWAYS_OPTIONAL, 1800.4 if name in reasons else ms, reasons.get(name))
        for name, ms in latencies.items()
    )
    return readiness.as_dict(Report(tuple(results), datetime(2026, 1, 31, 12, 34, 56, 789000, UTC), 0.0))


class _AllProcesses(Collector):
    def collect(self) -> Iterable[Metric]:
        return chain(metric_files.read(), process_metrics.collect())


class ProbeView(APIView):
    """Accepts anonymous GET and HEAD requests. Responses are not cached.

    Only the API documentation needs DRF's view. Its handling of a request is skipped, because negotiation, rendering
    and the wrapped request take a third of the processor time of `/health` (`make benchmark`).
    """

    authentication_classes = ()  # these are for the API documentation too
    permission_classes = ()
    http_method_names = ["get", "head"]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            headers = {"Allow": "GET, HEAD"}
            response: HttpResponse = failure_response(ErrorCode.METHOD_NOT_ALLOWED, headers=headers)
        else:
            response = self.get(request)
        response["Cache-Control"] = "no-store"
        return response

    def get(self, request: HttpRequest) -> HttpResponse:
        raise NotImplementedError


class LivenessView(ProbeView):
    """Return 200 without using any dependency. Otherwise an outage of the database would restart every server."""

    @extend_schema(
        operation_id="health",
        summary="Liveness probe",
        tags=["probes"],
        responses={200: success_response(LivenessSerializer, _ALIVE), **COMMON_RESPONSES},
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        return encoded_response(_ENCODED_ALIVE)


class ReadinessView(ProbeView):
    """Return 200 if this server can receive requests, otherwise 503."""

    @extend_schema(
        operation_id="ready",
        summary="Readiness probe",
        tags=["probes"],
        responses={
            200: success_response(ReportSerializer, _example()),
            503: error_response(ErrorCode.NOT_READY, details=ReportSerializer, example=_example(redis="timeout")),
            **COMMON_RESPONSES,
        },
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        report = readiness.runner().report()
        status = readiness.status(report)
        if status in ("ready", "degraded"):
            return encoded_response(readiness.encode_ready(report))
        message = "A critical dependency is unhealthy."
        if status == "draining":
            metrics.set_ready(False)
            message = "The server is shutting down."
        return failure_response(ErrorCode.NOT_READY, message, readiness.as_dict(report))


class MetricsView(ProbeView):
    """Return metrics in Prometheus' text format, aggregated over all workers. The token is required if one is set."""

    @extend_schema(
        operation_id="metrics",
        summary="Prometheus metrics",
        tags=["probes"],
        auth=[{}, {"metricsToken": []}],  # type: ignore[list-item]  # alternatives: no authentication, or the token
        responses={
            (200, "text/plain"): OpenApiResponse(
                str, "Success.", [OpenApiExample("SUCCESS", "voiceassist_ready 1.0\n", media_type="text/plain")]
            ),
            401: error_response(ErrorCode.AUTH_REQUIRED),
            **COMMON_RESPONSES,
        },
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        authorization = request.headers.get("Authorization", "")
        if settings.METRICS_TOKEN and not metrics_token.is_valid(authorization):
            code = ErrorCode.AUTH_FAILED if authorization else ErrorCode.AUTH_REQUIRED
            message = f"{code.message} Send the metrics token in the header Authorization: Bearer TOKEN."
            return failure_response(code, message, headers={"WWW-Authenticate": "Bearer"})
        text = prometheus_client.generate_latest(_AllProcesses() if runtime_folder.path else prometheus_client.REGISTRY)
        return HttpResponse(text, content_type=prometheus_client.CONTENT_TYPE_PLAIN_0_0_4)
