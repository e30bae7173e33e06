"""The log formatter: the fields of a line, size limits, and protection against leaked values and log injection.

Lines contain no exception messages, because these quote data: PostgreSQL quotes the rejected row, a ValueError the
value. Only in development, `full_tracebacks` adds the whole traceback. `extra` of `logging` is ignored, because
libraries put arbitrary objects there.
"""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, cast
from uuid import UUID

import structlog
from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from structlog.typing import EventDict

from core.trace_id import get_trace_id

MAX_FRAMES = 30  # the innermost frames
MAX_TEXT = 2_000  # characters of one value
MAX_ITEMS = 50  # of one list or dict
MAX_DEPTH = 5  # of nested lists and dicts
MAX_LINE = 16_000  # characters; Docker splits lines longer than 16 KiB

# After these prefixes, gunicorn's messages quote what the client sent.
_QUOTING_PREFIXES = ("Invalid request", "Error handling request")


def as_record(_logger: Any, _method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    """Return the arguments of the call to `logging`, as structlog's last processor. `Formatter` formats the event."""
    return (event,), {"extra": {"is_event": True}}


class Formatter(logging.Formatter):
    """Format records of structlog and `logging` as JSON, or as readable text with style "console".

    structlog's ProcessorFormatter would copy each record, which takes a third of the time.
    """

    def __init__(self, *, service: str, style: str, colors: bool, full_tracebacks: bool) -> None:
        self._service = service
        self._full_tracebacks = full_tracebacks
        self._render = _encode if style == "json" else _console(colors)
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Never raises, because `logging` would print the raw record, including values, to stderr."""
        try:
            line = self._line(record)
            problem = f"it is longer than {MAX_LINE} characters" if len(line) > MAX_LINE else None
        except Exception as error:
            problem = f"it can't be formatted ({type(error).__name__})"
        if problem:
            line = self._line(_replacement(record, problem))
        if self._full_tracebacks and (exception := _exception(_exc_info(record))):
            lines = "".join(traceback.format_exception(exception)).splitlines()
            line = "\n".join([line, *map(_escape, lines)])
        return line

    def _line(self, record: logging.LogRecord) -> str:
        if getattr(record, "is_event", False):
            event = dict(cast(EventDict, record.msg))
        else:
            event = {"event": record.getMessage(), "exc_info": record.exc_info}
        return self._render(self._standard_fields(record, self._safe_event(record, event)))

    def _safe_event(self, record: logging.LogRecord, event: EventDict) -> EventDict:
        """Remove exception messages and quoted requests."""
        exc_info = event.pop("exc_info", None)
        if exc_info and not self._full_tracebacks:
            event.update(_safe_exception(exc_info))
        event.pop("stack_info", None)
        if record.name in ("django.request", "gunicorn.error") and not hasattr(record, "is_replacement"):
            _strip_request_details(record.name, event)
        return event

    def _standard_fields(self, record: logging.LogRecord, event: EventDict) -> EventDict:
        """Add the standard fields, which callers can't override, and bound the size of all fields."""
        created_at = datetime.fromtimestamp(record.created, UTC)
        standard = {
            "timestamp": created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": event.pop("event", ""),
        }
        if trace_id := get_trace_id():
            standard["trace_id"] = trace_id
        # The first merge sets the order of the fields, the second one their values.
        return {str(key): _jsonable(value) for key, value in {**standard, **event, **standard}.items()}


def _replacement(record: logging.LogRecord, problem: str) -> logging.LogRecord:
    """Return a record that reports the problem. Records of some libraries have no file and line."""
    place = f"at {record.pathname}:{record.lineno}"[-200:] if record.lineno else f"of the logger {record.name}"
    message = f"Log record dropped: {problem}. Fix the log call {place}."
    copied = {name: getattr(record, name) for name in ("name", "levelname", "created")}
    return logging.makeLogRecord({**copied, "msg": message, "is_replacement": True})


def _exc_info(record: logging.LogRecord) -> Any:
    return record.msg.get("exc_info") if isinstance(record.msg, dict) else record.exc_info


def _exception(exc_info: Any) -> BaseException | None:
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return error if isinstance(error, BaseException) else None


def _safe_exception(exc_info: Any) -> dict[str, Any]:
    """Return the fields that locate a failure and contain no data: type, SQLSTATE, constraint, frames."""
    error = _exception(exc_info)
    if error is None:
        return {}
    cause = error.__cause__ or error  # Django wraps the driver's exception, which has the SQLSTATE
    frames = list(traceback.walk_tb(error.__traceback__))[-MAX_FRAMES:]
    fields = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "detail": _detail(error),
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(getattr(cause, "diag", None), "constraint_name", None),
        "frames": [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in frames],
    }
    return {"error": fields}


def _detail(error: BaseException) -> str | None:
    """Return the message of an exception about code or the system, None for one that may quote data."""
    if isinstance(error, ImportError | SyntaxError | ImproperlyConfigured | AppRegistryNotReady):
        return str(error)
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return None


def _strip_request_details(logger: str, event: EventDict) -> None:
    """Drop paths and headers, which these two loggers quote. The line of core.http.request_logging has the route."""
    if logger == "django.request":
        event["event"] = "unhandled exception"
        return
    for prefix in _QUOTING_PREFIXES:
        if str(event["event"]).startswith(prefix):
            error_type = sys.exc_info()[0]
            event["event"] = prefix
            event.setdefault("error", {"type": error_type.__name__ if error_type else None})


def _jsonable(value: Any, depth: int = 0) -> Any:
    """Return the value as JSON types of bounded size. Other objects become their type, as `repr()` may contain PHI."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | list | tuple | set | frozenset) and depth == MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {str(k)[:200]: _jsonable(v, depth + 1) for k, v in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return str(value) if isinstance(value, UUID | date) else f"<{type(value).__name__}>"


_encode = json.JSONEncoder().encode


def _console(colors: bool) -> Callable[[EventDict], str]:
    renderer = structlog.dev.ConsoleRenderer(event_key="message", colors=colors, sort_keys=False)
    return lambda event: renderer(None, "", _for_console(event))


def _for_console(event: EventDict) -> EventDict:
    """Escape control characters, and list the frames of an exception on separate lines."""
    del event["service"]
    event = {_escape(key): _escape(value) for key, value in event.items()}
    error = event.get("error")
    if isinstance(error, dict) and "frames" in error:
        del event["error"]
        known = [str(error[key]) for key in ("type", "detail", "sqlstate", "constraint") if error.get(key)]
        event["exception"] = "\n".join(f"    {part}" for part in (*known, *error["frames"]))
    return event


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, dict):
        return {_escape(key): _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list) else value
