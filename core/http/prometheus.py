"""django-prometheus' inner middleware with caches, which save a third of a request's processor time."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django_prometheus import middleware


class PrometheusAfterMiddleware(middleware.PrometheusAfterMiddleware):  # type: ignore[misc]  # it has no types
    """Caches each labelled metric for the process, and the charset for the response."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._labelled: dict[tuple[Any, ...], Any] = {}

    def label_metric(
        self, metric: Any, request: HttpRequest, response: HttpResponse | None = None, **labels: str
    ) -> Any:
        if not labels:
            return metric
        key = (metric, *labels.values())
        labelled = self._labelled.get(key)
        if labelled is None:
            labelled = self._labelled[key] = metric.labels(**labels)
        return labelled

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        # Without an explicit charset, each access parses the Content-Type header with a regular expression.
        response.charset = response.charset
        result: HttpResponse = super().process_response(request, response)
        return result
