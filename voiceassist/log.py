"""The log: one line an event on stdout, JSON in production, readable in development.

Django's, gunicorn's and the libraries' own lines take the same way as ours (structlog's ProcessorFormatter). What a
line never holds is the message of an exception: PostgreSQL quotes the refused row there, a ValueError the value.
"""

import sys
import traceback
from typing import Any

import structlog
from django.utils.log import CallbackFilter
from structlog.typing import EventDict, Processor

_MOST_FRAMES = 30  # innermost, enough to find the line


def safe_exception(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replaces ``exc_info`` by what tells where it broke but no value: type, SQLSTATE, constraint, frames."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return event
    cause = error.__cause__ or error  # Django wraps the driver's exception, which knows more
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    event["error"] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(getattr(cause, "diag", None), "constraint_name", None),
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    return event


def no_path(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Django's own line on an unhandled exception quotes the path; the line of the request has the route."""
    if event.get("logger") == "django.request":
        event["event"] = "unhandled exception"
    return event


def logging_config(*, level: str, style: str, service: str) -> dict[str, Any]:
    """Configures structlog and returns Django's ``LOGGING`` (a ``logging.config`` dictionary)."""

    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(allow=()),
        add_service,
        no_path,
        safe_exception,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(event_key="message", colors=sys.stdout.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    quiet = {"level": "WARNING"}  # a line for each call
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.EventRenamer("message"),
                    renderer,
                ],
            },
        },
        "filters": {
            "exceptions": {"()": CallbackFilter, "callback": lambda record: bool(record.exc_info)},
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stdout",
            },
        },
        "root": {"handlers": ["stdout"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "propagate": True},
            "django.request": {"filters": ["exceptions"]},  # the rest has the line of the request
            "django.security": {"level": "CRITICAL"},  # quotes what the client sent
            "httpx": quiet,
            "httpcore": quiet,
            "psycopg": quiet,
        },
    }
