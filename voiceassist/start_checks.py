"""What the server checks and logs before it starts. A failed check stops the start with one line."""

import logging
import os
import sys

from voiceassist import descriptors, settings

log = logging.getLogger("voiceassist.server")


def check(workers: int, threads: int) -> None:
    """Exit if the server could not serve. Django must have been set up."""
    if os.environ.get("SCRIPT_NAME"):  # gunicorn would remove it from each path, but links would lack it
        _fail("SCRIPT_NAME", "Not supported. Unset it, and serve VoiceAssist at the root of its own host name.")
    required = descriptors.required(threads)
    if descriptors.limit() < required:
        _fail("open files", f"The limit is too low. Raise it to at least {required} (ulimit -n, LimitNOFILE=).")
    if settings.PRODUCTION and (missing := _missing_static_files()):
        _fail("static files", f"Not collected ({missing} missing). Run `manage.py collectstatic --noinput`.")
    _log_connections(workers, threads)


def _missing_static_files() -> int:
    """Return how many static files the manifest lacks. A page that uses one of them would respond 500.

    Files that `collectstatic` ignores are not counted, such as .DS_Store and backups of editors.
    """
    from django.contrib.staticfiles.apps import StaticFilesConfig
    from django.contrib.staticfiles.finders import get_finders
    from django.templatetags.static import static

    missing = 0
    for path in (path for finder in get_finders() for path, _ in finder.list(StaticFilesConfig.ignore_patterns)):
        try:
            static(path)
        except (OSError, ValueError):  # the manifest is missing, can't be read, or lacks the file
            missing += 1
    return missing


def _log_connections(workers: int, threads: int) -> None:
    from core.clients.postgresql.connection_limit import max_connections

    count = max_connections(workers, threads)
    log.info(f"The server may open up to {count} connections to PostgreSQL (workers: {workers}, threads: {threads})")


def _fail(name: str, problem: str) -> None:
    sys.exit(f"voiceassist: {name}: {problem}")
