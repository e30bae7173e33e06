from django.http import HttpResponse
from django.test import RequestFactory

from core.http.prometheus import PrometheusAfterMiddleware


def test_caches_labelled_metrics(rf: RequestFactory) -> None:
    middleware = PrometheusAfterMiddleware(lambda request: HttpResponse())
    middleware(rf.get("/"))
    cached = dict(middleware._labelled)
    assert cached
    middleware(rf.get("/"))
    assert middleware._labelled == cached
