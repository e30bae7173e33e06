"""Logging configuration. Every event is one line: JSON in production, readable text in development.

Warnings, uncaught exceptions and the stderr of a server are logged too. Commands log to stderr, because stdout is for
their result; the server logs to stdout (voiceassist/gunicorn.py).
"""

import io
import logging
import logging.config
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from django.utils.log import CallbackFilter

from voiceassist.logs.formatter import MAX_TEXT, Formatter, as_record
from voiceassist.logs.refused_requests import RefusedRequestHandler
from voiceassist.logs.repeated import RepeatedFilter

log = structlog.stdlib.get_logger("voiceassist.python")


def logging_config(*, level: str, style: str, service: str, full_tracebacks: bool) -> dict[str, Any]:
    """Return Django's `LOGGING`, a dictionary for `configure`.

    `style` is "json" or "console". `full_tracebacks` adds exception messages and source lines, which may contain PHI.
    """
    silenced: dict[str, Any] = {"level": "CRITICAL"}  # for loggers that quote what the client sent
    quiet: dict[str, Any] = {"level": "WARNING"}  # for loggers that write a line for each call
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": Formatter,
                "service": service,
                "style": style,
                "colors": all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr)),  # None if closed
                "full_tracebacks": full_tracebacks,
            },
        },
        "filters": {
            "defects": {"()": CallbackFilter, "callback": _is_defect},
            "repeated": {"()": RepeatedFilter, "prefix": "dramatiq"},
        },
        "handlers": {
            "line": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["repeated"],
                "stream": "ext://sys.stderr",
            },
            "refused_requests": {"()": RefusedRequestHandler},
        },
        "root": {"handlers": ["line"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            # Only exceptions, because core.http.request_logging logs every request.
            "django.request": {"filters": ["defects"]},
            "django.server": {"handlers": [], "propagate": True, **silenced},
            "django.security": {"handlers": ["refused_requests"], "level": "WARNING", "propagate": False},
            "django.db": quiet,
            "django.template": quiet,
            # DEBUG would log the path of each request.
            "gunicorn.error": {"handlers": [], "level": "INFO" if level == "DEBUG" else level, "propagate": True},
            "axes": {"level": "ERROR"},  # core.auth.login_throttling logs lockouts
            "opentelemetry": silenced,  # voiceassist.tracing logs outages of the collector, once each
            **dict.fromkeys(("httpx", "httpcore", "psycopg", "urllib3", "asyncio", "dramatiq"), quiet),
        },
    }


def _is_defect(record: logging.LogRecord) -> bool:
    from core.clients.outages import is_outage  # imported late, because the settings import this module

    # Django also passes the exceptions of 400 and 403, as warnings.
    return bool(record.levelno >= logging.ERROR and record.exc_info and not is_outage(record.exc_info[1]))


def configure(config: dict[str, Any]) -> None:
    """Configure logging, structlog and Python's hooks for warnings and exceptions. Django's `LOGGING_CONFIG`."""
    logging.raiseExceptions = False  # otherwise logging prints a record that it can't write to stderr
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, as_record],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    warnings.showwarning = _show_warning
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning(f"{category.__name__}: {message}", where=f"{filename}:{lineno}")


def _uncaught(exc_type: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if sys.stderr and sys.stderr.isatty():
        sys.__excepthook__(exc_type, error, frames)
    else:
        log.critical("uncaught exception", exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        thread = args.thread.name if args.thread else None
        log.critical("uncaught exception in a thread", thread=thread, exc_info=args.exc_value)


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    """Log an exception that Python can't raise, such as one in `__del__`."""
    log.error("unraisable exception", exc_info=args.exc_value)


class _PartialLine:
    """What one thread has written since its last line break. It is logged at the latest when the thread ends."""

    text = ""

    def log(self) -> None:
        text, self.text = self.text.strip(), ""
        if text:
            log.error(text)

    __del__ = log


class StderrToLog(io.TextIOBase):
    """A replacement for `sys.stderr` that logs each line."""

    def __init__(self) -> None:
        self._thread = threading.local()  # otherwise lines of two threads are merged

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """Return the descriptor of the real stderr, to which faulthandler writes."""
        return sys.__stderr__.fileno() if sys.__stderr__ else super().fileno()

    def write(self, text: str) -> int:
        partial_line = self._partial_line()
        for line in text.splitlines(keepends=True):
            partial_line.text += line
            if line.endswith("\n") or len(partial_line.text) > MAX_TEXT:
                partial_line.log()
        return len(text)

    def flush(self) -> None:
        """Log what the current thread has written since its last line break. Python calls this at exit."""
        self._partial_line().log()

    def _partial_line(self) -> _PartialLine:
        if not hasattr(self._thread, "partial_line"):
            self._thread.partial_line = _PartialLine()
        return cast(_PartialLine, self._thread.partial_line)
