"""URLs of a server with views that write to the log in unusual ways."""

import logging
import sys
from threading import Barrier, Thread

from django.http import HttpRequest, HttpResponse
from django.urls import path

from voiceassist.urls import urlpatterns


def print_in_threads(request: HttpRequest) -> HttpResponse:
    """Print 300 lines in each of two threads at the same time."""
    barrier = Barrier(2)

    def write(name: str) -> None:
        barrier.wait()
        for number in range(300):
            print("thread", name, number, "end", file=sys.stderr)

    threads = [Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return HttpResponse()


def print_without_line_break(request: HttpRequest) -> HttpResponse:
    thread = Thread(target=lambda: sys.stderr.write("left by a thread"))
    thread.start()
    thread.join()
    sys.stderr.write("flushed")
    sys.stderr.flush()
    return HttpResponse()


def log_badly(request: HttpRequest) -> HttpResponse:
    logging.getLogger("app.module").error("%d", "canary-of-a-patient")
    return HttpResponse()


urlpatterns = [
    *urlpatterns,
    path("print-in-threads/", print_in_threads),
    path("print-without-line-break/", print_without_line_break),
    path("log-badly/", log_badly),
]
