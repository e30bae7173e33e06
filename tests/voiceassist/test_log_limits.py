"""The limits of a log line at n and n + 1, what is shown of an exception, and what a console shows."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from types import SimpleNamespace, TracebackType
from typing import Any
from uuid import UUID

import pytest
import structlog
from django.conf import settings
from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from psycopg import errors

from core.trace_id import clear_trace_id, set_trace_id
from tests.voiceassist.test_logs import CANARY, Read, capture_log, lines, restore_logging
from voiceassist.logs import config

__all__ = ["lines", "restore_logging"]
SERVICE = settings.SERVICE


def logged(lines: Read, value: Any) -> Any:
    """Return how the value is written."""
    structlog.stdlib.get_logger("app").info("event", value=value)
    return lines()[-1]["value"]


# Limits


def test_text_of_a_value_has_at_most_2000_characters(lines: Read) -> None:
    assert logged(lines, "ü" * 2_000) == "ü" * 2_000
    assert logged(lines, "ü" * 2_001) == "ü" * 2_000 + "… (2001 characters)"
    assert logged(lines, ["x" * 2_001]) == ["x" * 2_000 + "… (2001 characters)"]


def test_lists_have_at_most_50_items(lines: Read) -> None:
    for kind in (list, tuple):
        assert logged(lines, kind(range(50))) == [*range(50)]
        assert logged(lines, kind(range(51))) == [*range(50)]
    for unordered in (set, frozenset):
        assert sorted(logged(lines, unordered(range(50)))) == [*range(50)]
        assert len(logged(lines, unordered(range(51)))) == 50


def test_dicts_have_at_most_50_items_and_keys_at_most_200_characters(lines: Read) -> None:
    assert logged(lines, dict.fromkeys(range(50), 1)) == {str(number): 1 for number in range(50)}
    assert logged(lines, dict.fromkeys(range(51), 1)) == {str(number): 1 for number in range(50)}
    assert logged(lines, {"x" * 200: 1, "y" * 201: 2}) == {"x" * 200: 1, "y" * 200: 2}


def test_values_are_nested_at_most_5_levels_deep(lines: Read) -> None:
    assert logged(lines, [[[[[1, []]]]]]) == [[[[[1, "…"]]]]]
    assert logged(lines, [[[[[UUID(int=1), 1.5, "x"]]]]]) == [[[[[str(UUID(int=1)), 1.5, "x"]]]]]
    assert logged(lines, {"a": {"b": {"c": {"d": {"e": 1, "f": {}}}}}}) == {
        "a": {"b": {"c": {"d": {"e": 1, "f": "…"}}}}
    }


def test_line_has_at_most_16000_characters(lines: Read) -> None:
    log = structlog.stdlib.get_logger("app")

    def write(length: int) -> dict[str, Any]:
        log.info("event", **{f"f{number}": "x" * 1_900 for number in range(8)}, last="x" * length)
        return lines()[-1]

    fixed = len(json.dumps(write(0)))
    assert write(16_000 - fixed)["last"] == "x" * (16_000 - fixed)
    assert len(json.dumps(lines()[-1])) == 16_000
    assert write(16_001 - fixed)["message"].startswith("Log record dropped: it is longer than 16000 characters. ")


def test_location_of_a_dropped_record_has_at_most_200_characters(lines: Read) -> None:
    record = logging.makeLogRecord({"name": "app", "msg": "%d", "args": ("x",), "levelno": logging.INFO})
    record.pathname, record.lineno = "/" + "x" * 300, 17
    logging.getLogger("app").handle(record)
    location = lines()[-1]["message"].partition(" Fix the log call ")[2].removesuffix(".")
    assert (len(location), location[-5:]) == (200, "xx:17")


# Values


def test_values_of_each_type(lines: Read) -> None:
    class Text(str): ...

    key = UUID(int=1)
    values = {
        "a": None, "b": True, "c": 1, "d": 10**30, "e": 1.5, "f": float("-inf"), "g": key, "h": date(2026, 1, 2),
        "i": datetime(2026, 1, 2, tzinfo=UTC), "j": Text("text"), "k": b"bytes", "l": object(), "m": ValueError(CANARY),
        "n": 1j, "o": iter(()),
    }  # fmt: skip
    assert logged(lines, values) == {
        "a": None, "b": True, "c": 1, "d": 10**30, "e": 1.5, "f": "-inf", "g": str(key), "h": "2026-01-02",
        "i": "2026-01-02 00:00:00+00:00", "j": "text", "k": "<bytes>", "l": "<object>", "m": "<ValueError>",
        "n": "<complex>", "o": "<tuple_iterator>",
    }  # fmt: skip


def test_first_fields_have_a_fixed_order(lines: Read) -> None:
    structlog.stdlib.get_logger("app").info("event", z=1, a=2)
    assert list(lines()[-1]) == ["timestamp", "level", "service", "logger", "message", "z", "a"]


# Exceptions


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def error_of(lines: Read, error: BaseException) -> dict[str, Any]:
    """Return the field `error`, after checking that both kinds of loggers write the same."""
    logging.getLogger("app").error("event", exc_info=error)
    structlog.stdlib.get_logger("app").error("event", exc_info=error)
    first, second = (line["error"] for line in lines()[-2:])
    assert first == second
    return dict(first)


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ImportError("cannot import name 'x'"), "cannot import name 'x'"),
        (ModuleNotFoundError("No module named 'x'"), "No module named 'x'"),
        (SyntaxError("invalid syntax"), "invalid syntax"),
        (IndentationError("unexpected indent"), "unexpected indent"),
        (ImproperlyConfigured("Set DATABASES"), "Set DATABASES"),
        (AppRegistryNotReady("Apps aren't loaded yet."), "Apps aren't loaded yet."),
        (OSError(28, CANARY, CANARY), "No space left on device"),
        (ConnectionRefusedError(111, CANARY), "Connection refused"),
        (OSError(CANARY), None),
        (OSError(CANARY, CANARY), None),
        (ValueError(CANARY), None),
        (RuntimeError(CANARY), None),
        (SystemExit(CANARY), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_detail_of_an_exception(error: BaseException, detail: str | None, lines: Read) -> None:
    assert error_of(lines, raised(error))["detail"] == detail
    assert CANARY not in json.dumps(lines())


def recurse(depth: int) -> None:
    if depth:
        recurse(depth - 1)
    raise ValueError(CANARY)


@pytest.mark.parametrize(("depth", "count"), [(27, 29), (28, 30), (29, 30), (60, 30)])
def test_the_30_innermost_frames_are_logged(depth: int, count: int, lines: Read) -> None:
    try:
        recurse(depth)
    except ValueError as error:
        frames = error_of(lines, error)["frames"]
    assert len(frames) == count  # the frame of this test is the outermost
    assert sum(frame.endswith(" recurse") for frame in frames) == min(depth + 1, 30)
    assert frames[-1].endswith(f"test_log_limits.py:{recurse.__code__.co_firstlineno + 3} recurse")


def test_sqlstate_and_constraint_are_those_of_the_cause(lines: Read) -> None:
    cause = errors.UniqueViolation(CANARY)
    error = ValueError(CANARY)
    error.__cause__ = cause
    found = error_of(lines, raised(error))
    assert (found["type"], found["sqlstate"], found["constraint"]) == ("builtins.ValueError", "23505", None)
    assert error_of(lines, raised(cause))["sqlstate"] == "23505"
    error.__cause__ = ExceptionWith(diag=SimpleNamespace(constraint_name="messages_role_known"))
    assert error_of(lines, error)["constraint"] == "messages_role_known"
    assert error_of(lines, raised(ValueError()))["sqlstate"] is None


class ExceptionWith(Exception):
    def __init__(self, **values: Any) -> None:
        super().__init__()
        vars(self).update(values)


def test_type_of_a_nested_class_is_its_full_name(lines: Read) -> None:
    class Inner(Exception): ...

    name = f"{__name__}.test_type_of_a_nested_class_is_its_full_name.<locals>.Inner"
    assert error_of(lines, raised(Inner(CANARY)))["type"] == name


def test_exc_info_without_an_exception_adds_nothing(lines: Read) -> None:
    for log in (logging.getLogger("app"), structlog.stdlib.get_logger("app")):
        log.error("event", exc_info=True)
        log.error("event", exc_info=None)
        log.error("event", exc_info=(None, None, None))
    assert all("error" not in line and "exc_info" not in line for line in lines())
    assert {line["message"] for line in lines()} == {"event"}


def test_exc_info_is_the_exception_that_is_handled(lines: Read) -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        for log in (logging.getLogger("app"), structlog.stdlib.get_logger("app")):
            log.exception("event")
            log.warning("event", exc_info=True)
            log.warning("event", exc_info=(type(error), error, error.__traceback__))
    assert [line["error"]["type"] for line in lines()] == ["builtins.ValueError"] * 6
    assert {len(line["error"]["frames"]) for line in lines()} == {1}


def test_stack_info_is_not_logged(lines: Read) -> None:
    logging.getLogger("app").error("event", stack_info=True)
    structlog.stdlib.get_logger("app").error("event", stack_info=True)
    assert not any("stack" in key for line in lines() for key in line)


@pytest.mark.parametrize("prefix", ["Invalid request", "Error handling request"])
def test_message_of_gunicorn_that_quotes_the_request_is_cut(prefix: str, lines: Read) -> None:
    logging.getLogger("gunicorn.error").warning("%s from ip=%s: %s", prefix, "::1", CANARY)
    try:
        raise KeyError(CANARY)
    except KeyError:
        logging.getLogger("gunicorn.error").warning("%s %s", prefix, CANARY)
        logging.getLogger("gunicorn.error").exception("%s %s", prefix, CANARY)
    without, inside, with_frames = lines()
    assert (without["message"], without["error"]) == (prefix, {"type": None})
    assert (inside["message"], inside["error"]) == (prefix, {"type": "KeyError"})
    assert with_frames["error"]["type"] == "builtins.KeyError"
    assert len(with_frames["error"]["frames"]) == 1
    assert CANARY not in json.dumps(lines())


def test_other_messages_of_gunicorn_are_kept(lines: Read) -> None:
    for name, message in (("gunicorn.error", "Booting worker with pid: 7"), ("app", "Invalid request"), ("app", "x")):
        logging.getLogger(name).warning(message)
    assert [line["message"] for line in lines()] == ["Booting worker with pid: 7", "Invalid request", "x"]
    assert not any("error" in line for line in lines())


# Console


def shown(**values: Any) -> str:
    stream = capture_log("console")
    structlog.stdlib.get_logger("app").info("event", **values)
    return stream.getvalue()


def test_console_escapes_control_characters_at_each_level() -> None:
    bad = "a\x1b[2Jb\x9bc\u202e"
    for value in (bad, {bad: 1}, {"k": {bad: [bad]}}, [bad, [bad]], [{bad: bad}], {"k": [[{bad: bad}]]}):
        assert shown(value=value).removesuffix("\n").isprintable(), ascii(value)
    assert " value=a\\x1b[2Jb\\x9bc\\u202e\n" in shown(value=bad)
    assert " a\\x1b[2Jb\\x9bc\\u202e=1\n" in shown(**{bad: 1})
    assert shown(value="ü€").endswith(" value=ü€\n")
    assert shown(value=["ü€", 1, None]).endswith(" value=['ü€', 1, None]\n")


def test_console_escapes_control_characters_of_an_exception() -> None:
    stream = capture_log("console")
    code = compile("raise error", "file\x1b[2J.py", "exec")
    try:
        exec(code, {"error": ImproperlyConfigured("detail\x1b\u202e")})
    except ImproperlyConfigured:
        logging.getLogger("app").exception("event")
    lines = stream.getvalue().splitlines()
    assert lines[2] == "    detail\\x1b\\u202e"
    assert lines[-1] == "    file\\x1b[2J.py:1 <module>"


def test_line_of_the_console() -> None:
    stream = capture_log("console")
    handle()
    structlog.stdlib.get_logger("app").error("event", z=1, a="x y")
    first, second = stream.getvalue().splitlines()
    assert first == "2026-01-02T03:04:05.000000Z [error    ] event                          [app]"
    assert second.endswith("Z [error    ] event                          [app] z=1 a='x y'")


def test_console_shows_sqlstate_and_constraint() -> None:
    stream = capture_log("console")
    error = ValueError()
    error.__cause__ = ExceptionWith(sqlstate="23514", diag=SimpleNamespace(constraint_name="messages_role_known"))
    logging.getLogger("app").error("event", exc_info=error)
    first, *lines = stream.getvalue().splitlines()
    assert lines == ["    builtins.ValueError", "    23514", "    messages_role_known"]
    assert "error=" not in first


def test_console_leaves_out_the_service() -> None:
    assert "service" not in shown(a=1)


def test_console_shows_what_is_known_of_an_exception() -> None:
    stream = capture_log("console")
    error = raised(OSError(28, CANARY))
    logging.getLogger("app").error("event", exc_info=error)
    _, *exception = stream.getvalue().splitlines()
    line = raised.__code__.co_firstlineno + 2
    assert exception == ["    builtins.OSError", "    No space left on device", f"    {__file__}:{line} raised"]


def test_console_shows_an_error_without_frames_as_a_value() -> None:
    assert shown(error="text").endswith(" error=text\n")
    assert "'type': 'KeyError'" in shown(error={"type": "KeyError"})


# Hooks of Python


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def uncaught(lines: Read) -> Iterator[Callable[[], None]]:
    """Return a function that reports an exception as Python does when nobody has caught it."""
    error = raised(ValueError(CANARY))
    frames: TracebackType | None = error.__traceback__
    yield lambda: config._uncaught(type(error), error, frames)


def test_terminal_gets_the_traceback(
    uncaught: Callable[[], None], lines: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # since 3.13, Python colours tracebacks
    monkeypatch.setattr(sys, "stderr", Terminal())
    uncaught()
    text = sys.stderr.getvalue()  # type: ignore[union-attr]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith(f"ValueError: {CANARY}\n")
    assert lines() == []


@pytest.mark.parametrize("stderr", [io.StringIO(), None], ids=["file", "closed"])
def test_uncaught_exception_is_logged_without_a_terminal(
    stderr: io.StringIO | None, uncaught: Callable[[], None], lines: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    uncaught()
    (line,) = lines()
    assert (line["level"], line["message"]) == ("critical", "uncaught exception")
    assert line["error"]["type"] == "builtins.ValueError"
    assert CANARY not in json.dumps(line)


# Fields


def handle(logger: str = "app", **values: Any) -> None:
    """Log a record that was created at a given time."""
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    defaults = {"name": logger, "levelno": logging.ERROR, "levelname": "ERROR", "msg": "event", "created": created}
    logging.getLogger(logger).handle(logging.makeLogRecord(defaults | values))


def test_standard_fields(lines: Read) -> None:
    set_trace_id("a-trace-id")
    handle()
    clear_trace_id()
    handle(msg="")
    standard = {"timestamp": "2026-01-02T03:04:05.000000Z", "level": "error", "service": SERVICE, "logger": "app"}
    assert lines() == [{**standard, "message": "event", "trace_id": "a-trace-id"}, {**standard, "message": ""}]
    structlog.stdlib.get_logger("app").info(None)
    assert lines()[-1]["message"] == ""


@pytest.mark.parametrize("logger", ["app", "django.request", "gunicorn.error"])
def test_dropped_record_keeps_its_logger_level_and_time(logger: str, lines: Read) -> None:
    broken = {"msg": "Invalid request %d", "args": ("x",), "exc_info": _exc_info()}
    handle(logger, **broken, pathname="/a/file.py", lineno=17)
    handle(logger, **broken)
    problem = "Log record dropped: it can't be formatted (TypeError). Fix the log call"
    standard = {"timestamp": "2026-01-02T03:04:05.000000Z", "level": "error", "service": SERVICE, "logger": logger}
    assert lines() == [
        {**standard, "message": f"{problem} at /a/file.py:17."},
        {**standard, "message": f"{problem} of the logger {logger}."},
    ]


def test_message_of_django_about_a_request_is_replaced(lines: Read) -> None:
    handle("django.request", msg="Internal Server Error: %s", args=(f"/{CANARY}",), exc_info=_exc_info())
    assert lines()[-1]["message"] == "unhandled exception"
    assert CANARY not in json.dumps(lines())


def _exc_info() -> Any:
    error = raised(ValueError(f"{CANARY}\x1b"))
    return type(error), error, error.__traceback__


def test_traceback_follows_the_line_in_development() -> None:
    stream = capture_log("json", full_tracebacks=True)
    handle(exc_info=_exc_info())
    structlog.stdlib.get_logger("app").error("event", exc_info=_exc_info())
    handle()
    structlog.stdlib.get_logger("app").error("event", exc_info="no exception")
    written = stream.getvalue().splitlines()
    events = [json.loads(written[index]) for index in (0, 5, 10, 11)]
    assert not any("error" in event or "exc_info" in event for event in events)
    assert len(written) == 12
    for first in (1, 6):
        head, place, source, last = written[first : first + 4]
        assert (head, last) == ("Traceback (most recent call last):", f"ValueError: {CANARY}\\x1b")
        assert place.startswith(f'  File "{__file__}", line ')
        assert source == "    raise error"
