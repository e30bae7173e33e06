"""Our version of django-prometheus' middleware counts exactly what the original counts."""

from collections import Counter
from collections.abc import Callable

import pytest
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, StreamingHttpResponse
from django.test import RequestFactory
from django.urls import resolve
from django_prometheus import middleware
from prometheus_client import REGISTRY

from core.http.prometheus import PrometheusAfterMiddleware


def samples() -> Counter[tuple[str, ...]]:
    """Return the values that do not depend on time."""
    return Counter(
        {
            (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
            for metric in REGISTRY.collect()
            if metric.name.startswith("django_http")
            for sample in metric.samples
            if not sample.name.endswith("_created")
            and not ("latency" in sample.name and sample.name.endswith(("_sum", "_bucket")))
        }
    )


def changes(middleware_class: type, request: HttpRequest, response: HttpResponse) -> Counter[tuple[str, ...]]:
    before = samples()
    instance = middleware_class(lambda request: response)
    for _ in range(2):  # the second one finds the labelled metrics in the cache
        assert instance(request) is response
        if request.resolver_match:
            instance.process_view(request, None, (), {})
    return Counter({name: value - before[name] for name, value in samples().items() if value != before[name]})


def resolved(request: HttpRequest) -> HttpRequest:
    request.resolver_match = resolve("/")
    return request


@pytest.mark.parametrize(
    ("make_request", "make_response"),
    [
        pytest.param(lambda rf: resolved(rf.get("/")), lambda: HttpResponse("text"), id="get"),
        pytest.param(lambda rf: resolved(rf.head("/")), HttpResponse, id="head"),
        pytest.param(lambda rf: rf.post("/", b"12345", content_type="text/plain"), HttpResponse, id="body"),
        pytest.param(lambda rf: rf.get("/unknown"), HttpResponseNotFound, id="unmatched"),
        pytest.param(lambda rf: rf.get("/", secure=True), HttpResponse, id="https"),
        pytest.param(lambda rf: rf.get("/", HTTP_X_REQUESTED_WITH="XMLHttpRequest"), HttpResponse, id="ajax"),
        pytest.param(lambda rf: rf.get("/"), lambda: StreamingHttpResponse([b"part"]), id="streaming"),
        pytest.param(lambda rf: rf.get("/"), lambda: HttpResponse(charset="latin-1"), id="charset"),
        pytest.param(lambda rf: rf.get("/"), lambda: HttpResponse(status=302), id="status"),
    ],
)
def test_counts_what_the_original_counts(
    rf: RequestFactory,
    make_request: Callable[[RequestFactory], HttpRequest],
    make_response: Callable[[], HttpResponse],
) -> None:
    original = changes(middleware.PrometheusAfterMiddleware, make_request(rf), make_response())
    ours = changes(PrometheusAfterMiddleware, make_request(rf), make_response())
    assert original and ours == original


def test_counts_exceptions(rf: RequestFactory) -> None:
    before = samples()
    instance = PrometheusAfterMiddleware(lambda request: HttpResponse())
    request = resolved(rf.get("/"))
    instance(request)
    instance.process_exception(request, ValueError())
    key = ("django_http_exceptions_total_by_type_total", "('type', 'ValueError')")
    assert samples()[key] == before[key] + 1
