"""The log: one line an event, JSON in production, readable in development.

Everything takes this way: our lines, those of Django, gunicorn and the libraries, Python's warnings, exceptions that
nobody caught, and what a server prints on stderr. `voiceassist.logs.formatter` tells what a line holds.

A command's lines go to stderr, for its stdout is what it was asked for; a server's go to stdout (voiceassist.gunicorn).
"""

import io
import logging
import logging.config
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, TextIO

import structlog
from django.utils.log import CallbackFilter

from voiceassist.logs.formatter import Formatter, for_formatter

log = structlog.stdlib.get_logger("voiceassist.python")


def logging_config(*, level: str, style: str, service: str) -> dict[str, Any]:
    """Returns Django's `LOGGING`, a dictionary for `configure`."""
    never: dict[str, Any] = {"level": "CRITICAL"}  # quotes what the client sent, or the values of a statement
    quiet: dict[str, Any] = {"level": "WARNING"}  # a line for each call
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": Formatter,
                "service": service,
                "style": style,
                "colors": sys.stdout.isatty() and sys.stderr.isatty(),
            },
        },
        "filters": {
            "defects": {"()": CallbackFilter, "callback": _is_defect},
        },
        "handlers": {
            "line": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"},
        },
        "root": {"handlers": ["line"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.request": {"filters": ["defects"]},  # everything else has the line of its request
            "django.server": {"handlers": [], "propagate": True, **never},
            "django.security": never,
            "django.db": quiet,
            "django.template": quiet,
            # At DEBUG it has each request's path.
            "gunicorn.error": {"handlers": [], "level": "INFO" if level == "DEBUG" else level, "propagate": True},
            "axes": {"level": "ERROR"},  # several lines a login; core.auth.login_throttling has one that tells
            "opentelemetry": never,  # voiceassist.tracing tells a change
            **dict.fromkeys(("httpx", "httpcore", "psycopg", "urllib3", "asyncio"), quiet),
        },
    }


def _is_defect(record: logging.LogRecord) -> bool:
    from core.clients.outages import is_outage  # not at the start: this module is imported by the settings

    return bool(record.exc_info and not is_outage(record.exc_info[1]))


def configure(config: dict[str, Any]) -> None:
    """Django's `LOGGING_CONFIG`: sets logging, structlog and what Python would print by itself."""
    logging.raiseExceptions = False  # a stream that can't be written is no reason to print the line elsewhere
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    warnings.showwarning = _warning
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _ignored


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning(f"{category.__name__}: {message}", where=f"{filename}:{lineno}")


def _uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if sys.stderr.isatty():  # somebody sits there, who typed the command
        sys.__excepthook__(kind, error, frames)
    else:
        log.critical("uncaught exception", exc_info=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        thread = args.thread.name if args.thread else None
        log.critical("uncaught exception in a thread", thread=thread, exc_info=args.exc_value)


def _ignored(args: "sys.UnraisableHookArgs") -> None:
    log.error("exception where nobody can catch it", exc_info=args.exc_value)


class StderrToLog(io.TextIOBase):
    """A stream whose every line is a line of the log: what a server prints on stderr, such as why it can't start."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                log.error(line.strip())
        return len(text)
