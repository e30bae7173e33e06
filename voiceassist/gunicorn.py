"""Gunicorn's configuration: `gunicorn -c voiceassist/gunicorn.py voiceassist.wsgi:application`.

Gunicorn executes this file in the master, before it loads the application and forks workers. Importing it changes
nothing: a configuration file that imports from this one has to call `start` itself.
"""

import gc
import logging
import os
import resource
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from django.conf import settings as django_settings  # SIGHUP changes secrets in them
from gunicorn.glogging import Logger

if __name__ == "__config__":  # see the end of this file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # gunicorn applies --chdir only afterwards

from core import secret_files
from health.multiprocess import draining, metric_files, process_metrics, runtime_folder, worker_stacks, worker_states
from voiceassist import descriptors, settings, start_checks
from voiceassist.gunicorn_master import logging_failures, survive_failed_starts_of_workers
from voiceassist.logs.config import StderrToLog, configure
from voiceassist.logs.streams import open_closed_streams

bind = settings.BIND
worker_class = "voiceassist.gunicorn_worker.Worker"
workers = settings.WEB_CONCURRENCY
threads = settings.WEB_THREADS
worker_connections = descriptors.worker_connections(threads)
preload_app = True  # workers share the master's memory, and the start fails if the application can't be loaded
timeout = 30  # seconds without a heartbeat after which a worker is killed
graceful_timeout = 30  # seconds for requests in flight, after draining
keepalive = 75  # seconds, above the idle timeout of common load balancers (60)
worker_tmp_dir = str(runtime_folder.parent())  # of gunicorn's heartbeats, which a slow disk would delay
control_socket_disable = True  # gunicorn would create it in the home directory, which may be read-only
secure_scheme_headers: dict[str, str] = {}  # Django reads X-Forwarded-Proto, and only under BEHIND_PROXY
# Ignore the headers SCRIPT_NAME and PATH_INFO, which gunicorn accepts from this machine by default. A proxy may run on
# it and pass on those of its clients.
forwarder_headers = ""
logconfig_dict = settings.LOGGING

log = logging.getLogger("voiceassist.server")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)  # they stop a worker


class logger_class(Logger):  # type: ignore[misc]  # gunicorn has no types
    access_log_enabled = False  # core.http.request_logging logs requests; gunicorn would format lines and drop them


def start() -> None:
    """Set the environment, the log and the runtime folder of the master. A second call, at a reload, does nothing."""
    if runtime_folder.path is not None:
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")  # our worker class is imported first
    if sys.stdout is None and sys.stderr is not None:  # stdout is closed, so log to stderr
        os.dup2(2, 1)
        sys.stdout = sys.stderr
    open_closed_streams()
    settings.LOGGING["handlers"]["line"]["stream"] = "ext://sys.stdout"  # a command needs stdout for its own output
    configure(settings.LOGGING)
    if settings.LOG_FORMAT == "json":
        sys.stderr = StderrToLog()
    warnings.filterwarnings("ignore", "No directory at")  # WhiteNoise's. The start check says what to do
    # Our log lines don't have these fields: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    os.register_at_fork(after_in_parent=_unblock_stop_signals)  # see pre_fork
    descriptors.raise_limit()
    # A crash must not write PHI to a file. Kubernetes has no setting for this.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runtime_folder.create()
    metric_files.start()
    process_metrics.register(process_metrics.MASTER)


def _unblock_stop_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def _reporters() -> list[Any]:
    """Return the modules that send traces and error reports, if they are configured."""
    configured = {"tracing": settings.OTEL_EXPORTER_OTLP_ENDPOINT, "error_reports": django_settings.SENTRY_DSN}
    return [import_module(f"voiceassist.{name}") for name, value in configured.items() if value]


def nworkers_changed(server: Any, count: int, before: int | None) -> None:
    with logging_failures("the number of workers could not be stored"):
        worker_states.set_worker_count(count)


def on_starting(server: Any) -> None:
    if runtime_folder.path is None:
        sys.exit("voiceassist: voiceassist.gunicorn.start() was not called. Call it in the file that imports it.")
    start_checks.check(server.cfg.workers, server.cfg.threads)
    if settings.EMBEDDED_SERVERS:
        from voiceassist import embedded

        embedded.start_or_exit(settings.EMBEDDED_SERVERS)


def on_reload(server: Any) -> None:
    """Read secrets in files again after SIGHUP, before gunicorn replaces the workers."""
    secret_files.reload()


def when_ready(server: Any) -> None:
    """Make SIGTERM drain first, because gunicorn's handler closes the listening sockets at once. Freeze the heap."""
    from health import checks  # uses Django's settings

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
    survive_failed_starts_of_workers(server)
    checks.preload()
    # The garbage collector of a worker must not write to the pages that it shares with the master.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # avoids several collections per request, which creates few reference cycles


def pre_fork(server: Any, worker: Any) -> None:
    """Block the stop signals across the fork.

    Until a worker has installed its own handlers it has the master's, which would lose the signal; the master would
    then wait for `graceful_timeout`. post_worker_init unblocks them.
    """
    worker.process_name = process_metrics.name_of_next_worker(other.process_name for other in server.WORKERS.values())
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


def post_fork(server: Any, worker: Any) -> None:
    from core.metrics import DATABASE_CONNECTIONS  # imports prometheus_client, which needs the runtime folder

    DATABASE_CONNECTIONS.labels("max").set(settings.WEB_THREADS)
    with logging_failures("the process id of this worker could not be stored"):
        process_metrics.register(worker.process_name)
    for reporter in _reporters():
        reporter.start()


def post_worker_init(worker: Any) -> None:
    from health import readiness

    with logging_failures("the stacks of this worker can't be recorded"):
        worker_stacks.record()
    # It inherits the blocked signals, so that only the main thread handles them.
    readiness.start_background_thread()
    _unblock_stop_signals()


def worker_abort(worker: Any) -> None:
    """End a worker that received SIGABRT. Gunicorn's exit would wait for the threads that hang."""
    os._exit(1)


def worker_exit(server: Any, worker: Any) -> None:
    for reporter in _reporters():
        reporter.stop()


def child_exit(server: Any, worker: Any) -> None:
    with logging_failures("the stacks of a hung worker could not be logged"):
        worker_stacks.log_stacks(worker.pid, was_aborted=worker.aborted)
    with logging_failures("the state of a dead worker could not be stored"):
        worker_states.mark_dead(worker.pid)
        process_metrics.unregister(worker.process_name, worker.pid)
    with logging_failures("the metrics of a dead worker could not be merged"):
        metric_files.merge(alive={os.getpid(), *server.WORKERS})


def pre_exec(server: Any) -> None:
    """Start the new master as a module too (SIGUSR2). As a script, gunicorn's own folder would shadow packages."""
    server.START_CTX["args"][1:2] = ["-m", "gunicorn"]


def on_exit(server: Any) -> None:
    if draining.is_draining():
        draining.log_result(log, settings.DRAIN_SECONDS, server.cfg.graceful_timeout)
    runtime_folder.remove()


if __name__ == "__config__":  # the undocumented name under which gunicorn executes its configuration file
    start()
