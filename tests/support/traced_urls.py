"""URLs of a server with a view that makes one call of each traced kind, with a canary in every value."""

from contextlib import suppress

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import path
from psycopg import sql
from qdrant_client.http.exceptions import UnexpectedResponse

from core.clients import qdrant
from voiceassist.urls import handler500 as handler500
from voiceassist.urls import urlpatterns

CANARY = "canary-of-a-patient"


def touch(request: HttpRequest, name: str) -> HttpResponseBase:
    with connection.cursor() as cursor:
        cursor.execute("SELECT upper(%s)", [CANARY])
        cursor.execute(sql.SQL("SELECT {}, {} AS age").format(sql.Literal(CANARY), 4711))
    cache.set(f"key-{CANARY}", CANARY)
    cache.get_many([f"key-{CANARY}", f"other-{CANARY}"])
    with qdrant.client() as client, suppress(UnexpectedResponse):
        client.delete_collection(CANARY)
    return HttpResponse()


def fail(request: HttpRequest, name: str) -> HttpResponseBase:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::integer", [CANARY])
    return HttpResponse()


urlpatterns = [*urlpatterns, path("touch/<str:name>/", touch), path("fail/<str:name>/", fail)]
