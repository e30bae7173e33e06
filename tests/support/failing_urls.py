"""URLs of the server and one view that raises an exception."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from voiceassist.urls import handler400, handler403, handler404, handler500, urlpatterns

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]


def fail(request: HttpRequest) -> HttpResponse:
    patient = "local-" + "variable"
    raise ValueError("message-of-" + f"exception {len(patient)}")


urlpatterns = [*urlpatterns, path("fail/", fail)]
