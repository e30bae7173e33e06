import math

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from core.clients.postgresql.time_limit import request_time_left
from core.http.request_limits import RequestLimitsMiddleware


@pytest.mark.parametrize("path", ["/", "/health", "/nothing"])
def test_rejects_too_large_bodies(client: Client, path: str) -> None:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert client.get(path, CONTENT_LENGTH=str(limit)).status_code != 413
    for length in (limit + 1, 10**12):
        response = client.post(path, CONTENT_LENGTH=str(length))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "BAD_REQUEST")
        assert "100 kB" in response.json()["error"]["message"]


def test_limits_database_calls_of_the_request(rf: RequestFactory) -> None:
    limits: list[float] = []

    def get_response(request: HttpRequest) -> HttpResponse:
        limits.append(request_time_left())
        return HttpResponse()

    RequestLimitsMiddleware(get_response)(rf.get("/"))
    assert limits == [settings.DATABASE_TIMEOUT]
    assert request_time_left() == math.inf
