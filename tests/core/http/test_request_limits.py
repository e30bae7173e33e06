import math

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from core.clients.postgresql.time_limit import request_time_left
from core.http.request_limits import RequestLimitsMiddleware


def test_rejects_implausible_content_length(client: Client) -> None:
    assert client.get("/", CONTENT_LENGTH="9" * 12).status_code == 200
    assert client.get("/", CONTENT_LENGTH="9" * 13).status_code == 400


def test_limits_database_calls_of_the_request(rf: RequestFactory) -> None:
    limits: list[float] = []

    def get_response(request: HttpRequest) -> HttpResponse:
        limits.append(request_time_left())
        return HttpResponse()

    RequestLimitsMiddleware(get_response)(rf.get("/"))
    assert limits == [settings.DATABASE_TIMEOUT]
    assert request_time_left() == math.inf
