"""A line of the log: what it holds, and that nothing in it can break it, split it or pass for another.

`Formatter` makes it of a record, whoever wrote that: our code by structlog, Django, gunicorn or a library by `logging`.
Of the latter only the message is taken: what a library puts into `extra` may be anything.

What a line never holds is the message of an exception: PostgreSQL quotes the refused row there, a ValueError the value.
"""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import structlog
from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from structlog.typing import EventDict

from core.trace_id import get_trace_id

_MOST_FRAMES = 30  # innermost, enough to find the line
_MOST_TEXT = 2_000  # characters of one value
_MOST_ITEMS = 50
_MOST_LINE = 16_000  # characters; Docker cuts a line in two at 16 KiB

# Lines of gunicorn's that go on with what the client sent.
_QUOTING = ("Invalid request", "Error handling request")


class Formatter(logging.Formatter):
    def __init__(self, *, service: str, style: str, colors: bool) -> None:
        super().__init__()
        self._service = service
        self._render = _json if style == "json" else _console(colors)

    def format(self, record: logging.LogRecord) -> str:
        """Whatever was logged becomes a line. `logging` would print what it can't format, values and all, on stderr."""
        try:
            line = self._render(self._fields(record, _event(record)))
            problem = "too long" if len(line) > _MOST_LINE else ""
        except Exception as error:
            problem = type(error).__name__
        if problem:
            message = f"a line from {f'{record.pathname}:{record.lineno}'[-200:]} can't be written ({problem})"
            line = self._render(self._fields(record, {"event": message}))
        return line

    def _fields(self, record: logging.LogRecord, event: EventDict) -> EventDict:
        """Returns what every line has, in the place of whatever a caller has put there, and then the caller's."""
        moment = datetime.fromtimestamp(record.created, UTC)
        fixed = {
            "timestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": event.pop("event", ""),
        }
        if trace_id := get_trace_id():
            fixed["trace_id"] = trace_id
        return {str(key): _plain(value) for key, value in {**fixed, **event, **fixed}.items()}


def _event(record: logging.LogRecord) -> EventDict:
    """Returns what structlog was given, or the message of a line by `logging`; an exception as what it may tell."""
    if hasattr(record, "_from_structlog"):
        event: EventDict = dict(record.msg)  # type: ignore[arg-type]  # see `for_formatter`
        exc_info = event.pop("exc_info", None)
    else:
        event, exc_info = {"event": record.getMessage()}, record.exc_info
    if exc_info:
        event.update(_safe_exception(exc_info))
    if record.name in ("django.request", "gunicorn.error"):
        _no_request(record.name, event)
    return event


def for_formatter(_logger: Any, _method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    """structlog's last processor: hands the event to `logging` as it is."""
    return (event,), {"extra": {"_from_structlog": True}}


def _safe_exception(exc_info: Any) -> dict[str, Any]:
    """Returns what tells where it broke but no value: type, SQLSTATE, constraint, frames."""
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return {}
    cause = error.__cause__ or error  # Django wraps the driver's exception, which knows more
    frames = list(traceback.walk_tb(error.__traceback__))[-_MOST_FRAMES:]
    told = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "detail": _detail(error),
        "sqlstate": getattr(cause, "sqlstate", None),
        "constraint": getattr(getattr(cause, "diag", None), "constraint_name", None),
        "frames": [f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in frames],
    }
    return {"error": told}


def _detail(error: BaseException) -> str | None:
    """Returns the message of an exception that tells of code, not of data: why a server does not start."""
    if isinstance(error, ImportError | SyntaxError | ImproperlyConfigured | AppRegistryNotReady):
        return str(error)
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return None


def _no_request(logger: str, event: EventDict) -> None:
    """Lines on a request that Django and gunicorn write quote its path or header; our own has the route."""
    if logger == "django.request":
        event["event"] = "unhandled exception"
        return
    for beginning in _QUOTING:
        if str(event["event"]).startswith(beginning):
            kind = sys.exc_info()[0]
            event["event"] = beginning
            event.setdefault("error", {"type": kind.__name__ if kind else None})


def _plain(value: Any, depth: int = 0) -> Any:
    """Returns what JSON can hold, of a bounded size. An object is told by its type: its `repr()` may tell anything."""
    if isinstance(value, str):
        return value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}… ({len(value)} characters)"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | list | tuple | set | frozenset) and depth == 5:
        return "…"
    if isinstance(value, dict):
        return {str(k)[:200]: _plain(v, depth + 1) for k, v in list(value.items())[:_MOST_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:_MOST_ITEMS]]
    return str(value) if isinstance(value, UUID | date) else f"<{type(value).__name__}>"


_json = json.JSONEncoder().encode  # `_fields` leaves nothing that it can't


def _console(colors: bool) -> Callable[[EventDict], str]:
    renderer = structlog.dev.ConsoleRenderer(event_key="message", colors=colors, sort_keys=False)
    return lambda event: renderer(None, "", _for_people(event))


def _for_people(event: EventDict) -> EventDict:
    """The terminal obeys control characters, which JSON escapes: here they are shown. Frames get lines of their own."""
    event.pop("service")
    event = {_visible(key): _visible(value) for key, value in event.items()}
    error = event.get("error")
    if isinstance(error, dict) and "frames" in error:
        del event["error"]
        known = [str(error[key]) for key in ("type", "detail", "sqlstate", "constraint") if error.get(key)]
        event["exception"] = "\n".join(f"    {part}" for part in (*known, *error["frames"]))
    return event


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list) else value
