"""How the server runs: `gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application`.

Read by gunicorn's master before it forks a worker. A setting that is wrong ends it here, in one line.
"""

import gc
import logging
import os
import signal
import sys
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger

from health.multiprocess import draining, metric_files
from health.multiprocess import worker_slots as seats
from voiceassist import settings
from voiceassist.logs.config import StderrToLog, configure

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")  # our worker is loaded before the application

bind = settings.BIND
worker_class = "voiceassist.gunicorn_worker.Worker"
workers = settings.WEB_CONCURRENCY
threads = settings.WEB_THREADS
preload_app = True  # workers share the master's memory, and a broken application ends the start
timeout = 30  # seconds without a sign of life from a worker
graceful_timeout = 30  # seconds for requests in flight, once drained
keepalive = 75  # seconds, above the idle timeout of usual load balancers (60)
# The default is on disk, where a slow disk makes workers look dead.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
control_socket_disable = True  # it would be made under the home directory, which may be read-only
# X-Forwarded-Proto is Django's to read, and only under BEHIND_PROXY.
secure_scheme_headers: dict[str, str] = {}
settings.LOGGING["handlers"]["line"]["stream"] = "ext://sys.stdout"  # no other output needs it, as a command's does
configure(settings.LOGGING)
if settings.LOG_FORMAT == "json":
    sys.stderr = StderrToLog()
logconfig_dict = settings.LOGGING


class logger_class(Logger):  # type: ignore[misc]  # gunicorn has no types
    access_log_enabled = False  # core.http.request_logging logs requests; this would format each and throw it away


metric_files.create()

# What no line of the log tells is not found out for each: https://docs.python.org/3/howto/logging.html#optimization
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def on_starting(server: Any) -> None:
    if settings.EMBEDDED_SERVERS:
        from voiceassist import embedded

        embedded.start_or_exit(settings.EMBEDDED_SERVERS)


def when_ready(server: Any) -> None:
    """Puts draining before gunicorn's own handling of SIGTERM, which closes the sockets first."""

    def drain(signum: int, frame: FrameType | None) -> None:
        if draining.is_draining() or settings.DRAIN_SECONDS == 0:
            server.signal(signal.SIGQUIT if draining.is_draining() else signal.SIGTERM, frame)
            return
        draining.begin()
        signal.setitimer(signal.ITIMER_REAL, settings.DRAIN_SECONDS)

    def stop(signum: int, frame: FrameType | None) -> None:
        server.signal(signal.SIGTERM, frame)

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGALRM, stop)
    # What is loaded by now stays: the collector of a worker need not write to these pages, which they all share.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # nor look for cycles several times a request, which leaves few


# A worker has its master's handlers until it has made its own: a signal that tells it to stop in that moment would be
# lost, and the master would wait for it for `graceful_timeout`. So it is born with these kept back.
_STOPPING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
os.register_at_fork(after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING))


def nworkers_changed(server: Any, count: int, before: int | None) -> None:
    seats.configure(count)


def pre_fork(server: Any, worker: Any) -> None:
    worker.seat = seats.reserve()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def post_fork(server: Any, worker: Any) -> None:
    from core.metrics import DATABASE_CONNECTIONS  # not before metric_files.create()

    DATABASE_CONNECTIONS.labels("max").set(settings.WEB_THREADS)
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from voiceassist import tracing

        tracing.start()


def post_worker_init(worker: Any) -> None:
    from health import readiness

    seats.take(worker.seat)
    readiness.follow()  # its thread keeps these signals blocked, so that they wake the main one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


def worker_exit(server: Any, worker: Any) -> None:
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from voiceassist import tracing

        tracing.stop()


def child_exit(server: Any, worker: Any) -> None:
    seats.leave(worker.seat)
    try:
        metric_files.merge(alive={os.getpid(), *server.WORKERS})
    except Exception:  # it would end the master, and all workers with it
        logging.getLogger("voiceassist.metrics").exception("metrics of a dead worker are not merged")


def on_exit(server: Any) -> None:
    metric_files.remove()
