"""URLs of a server with views that make a worker hang, each with a value that must not be logged."""

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import path

from voiceassist.urls import urlpatterns

CANARY = "canary-of-a-patient"
HANGS = "a view hangs"  # in the log, once for each request
_LOCK = threading.Lock()


def hang_in_request(request: HttpRequest, name: str) -> HttpResponseBase:
    patient = CANARY  # noqa: F841  # a local variable
    logging.getLogger(__name__).warning(HANGS)
    while True:
        time.sleep(1)


def hang_in_c_code(request: HttpRequest, name: str) -> HttpResponseBase:
    """Keep the interpreter's lock, so that no other thread and no Python handler of a signal runs."""
    logging.getLogger(__name__).warning(HANGS)
    return ctypes.PyDLL(None).sleep(600)  # type: ignore[no-any-return]


def hang_in_main_thread(request: HttpRequest, name: str) -> HttpResponseBase:
    """Let the worker's main loop wait for a lock that is never released."""
    _LOCK.acquire()
    frame: Any = sys._current_frames()[threading.main_thread().ident or 0]
    while not hasattr(frame.f_locals.get("self"), "method_queue"):
        frame = frame.f_back
    frame.f_locals["self"].method_queue.defer(_wait_for_lock)
    return hang_in_request(request, name)


def _wait_for_lock() -> None:
    _LOCK.acquire()


VIEWS: dict[str, Callable[..., HttpResponseBase]] = {
    "request": hang_in_request,
    "c": hang_in_c_code,
    "main": hang_in_main_thread,
}
urlpatterns = [*urlpatterns, *(path(f"hang/{kind}/<str:name>/", view) for kind, view in VIEWS.items())]
