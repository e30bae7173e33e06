"""Logging: every record is one valid line, and no log call and no failure writes PHI in production."""

import io
import json
import logging
import logging.config
import math
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext, override_settings

from core.models import Message, Session, User
from core.trace_id import clear_trace_id, set_trace_id
from tests.support.load_settings import PRODUCTION
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer
from tests.voiceassist.test_settings import run_python
from voiceassist.logs.config import StderrToLog, logging_config

CANARY = "canary of a patient"
UNCAUGHT = f"""
import sys, threading, warnings, django
django.setup()

class Broken:
    def __del__(self):
        raise ValueError({CANARY!r})

def fail():
    raise ValueError({CANARY!r})

print("result")
warnings.warn("a warning")
thread = threading.Thread(target=fail, name="a thread")
thread.start()
thread.join()
Broken()
fail()
"""
Read = Callable[[], list[dict[str, Any]]]


def capture_log(style: str, *, full_tracebacks: bool = False) -> io.StringIO:
    """Return a stream that gets all lines from DEBUG on."""
    stream = io.StringIO()
    config = logging_config(level="DEBUG", style=style, service=settings.SERVICE, full_tracebacks=full_tracebacks)
    config["handlers"]["line"]["stream"] = stream
    logging.config.dictConfig(config)
    return stream


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    yield
    logging.config.dictConfig(settings.LOGGING)


@pytest.fixture
def lines() -> Read:
    stream = capture_log("json")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.django_db
def test_exception_message_is_not_logged(lines: Read) -> None:
    user = User.objects.create_user("user@example.org")
    session = Session.objects.create(user=user, title=CANARY)
    try:
        with transaction.atomic():
            Message.objects.create(session=session, role="doctor", content=CANARY)
    except IntegrityError as error:
        assert CANARY in str(error)
        logging.getLogger("app").exception("storing failed")
        structlog.stdlib.get_logger("app").exception("storing failed")
    logged = [line for line in lines() if line["message"] == "storing failed"]
    assert len(logged) == 2
    for line in logged:
        assert CANARY not in json.dumps(line)
        assert line["error"]["type"] == "django.db.utils.IntegrityError"
        assert line["error"]["sqlstate"] == "23514"
        assert line["error"]["constraint"] == "messages_role_known"
        assert any("test_logs.py" in frame for frame in line["error"]["frames"])


class BrokenRepr:
    def __repr__(self) -> str:
        raise ValueError(CANARY)

    __str__ = __repr__


CONTROL_CHARACTERS = "a\n{}\r\x1b[2J\x1b[31m\x85\u2028\u202e\x00\udc80"


@pytest.mark.parametrize("style", ["json", "console"])
def test_input_cannot_split_or_forge_a_line(style: str) -> None:
    stream = capture_log(style)
    logging.getLogger("app").info("first %s", CONTROL_CHARACTERS)
    structlog.stdlib.get_logger("app").info(
        CONTROL_CHARACTERS,
        route=CONTROL_CHARACTERS,
        deep={CONTROL_CHARACTERS: [CONTROL_CHARACTERS]},
        **{CONTROL_CHARACTERS: 1},
    )
    set_trace_id(CONTROL_CHARACTERS)
    logging.getLogger("app\nb").info("third", extra={"x": CONTROL_CHARACTERS})
    clear_trace_id()
    text = stream.getvalue().removesuffix("\n")
    assert len(text.split("\n")) == 3
    assert all(line.isprintable() for line in text.split("\n"))


def test_callers_cannot_override_standard_fields(lines: Read) -> None:
    forged = dict.fromkeys(("timestamp", "level", "service", "logger", "message", "trace_id"), "forged")
    set_trace_id("current")
    structlog.stdlib.get_logger("app").warning("event", **forged)
    del forged["message"]  # logging rejects it
    logging.getLogger("app").warning("event", extra=forged)
    clear_trace_id()
    logged = lines()
    assert len(logged) == 2
    for line in logged:
        assert "forged" not in line.values()
        assert (line["level"], line["logger"], line["message"], line["trace_id"]) == (
            *("warning", "app", "event", "current"),
        )
        assert line["timestamp"].endswith("Z")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])) < timedelta(minutes=1)


def test_values_that_json_does_not_support_are_logged(lines: Read, capfd: pytest.CaptureFixture[str]) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    key = uuid4()
    values = {"a": BrokenRepr(), "b": math.nan, "c": cycle, "d": {(1, 2): b"x"}, "e": {1}, "f": key, "g": Session()}
    structlog.stdlib.get_logger("app").info("all", **values)
    logging.getLogger("app").info("%s", BrokenRepr())
    logging.getLogger("app").info("%d", CANARY)
    logging.getLogger("app").info("last", extra={"a": BrokenRepr()})
    first, *broken, last = lines()
    assert (first["a"], first["b"], first["f"], first["g"]) == ("<BrokenRepr>", "nan", str(key), "<Session>")
    for line, error_type in zip(broken, ("ValueError", "TypeError"), strict=True):
        assert re.fullmatch(
            rf"Log record dropped: it can't be formatted \({error_type}\)\. Fix the log call at .*test_logs\.py:\d+\.",
            line["message"],
        )
    assert last["message"] == "last"
    assert CANARY not in json.dumps(lines())
    assert capfd.readouterr().err == ""


def test_long_records_are_bounded(lines: Read) -> None:
    logging.getLogger("app").info("x" * 1_000_000)
    structlog.stdlib.get_logger("app").info("many", values=["ü" * 5_000] * 1_000)
    long, many = lines()
    assert long["message"].endswith("x… (1000000 characters)")
    assert many["message"].startswith("Log record dropped: it is longer than 16000 characters. Fix the log call at ")
    assert max(len(json.dumps(line)) for line in (long, many)) < 16_000


def test_dropped_record_names_the_logger_when_there_is_no_location(
    lines: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "_srcfile", None)  # https://docs.python.org/3/howto/logging.html#optimization
    logging.getLogger("django.request").error("%d", CANARY, exc_info=ValueError(CANARY))
    (line,) = lines()
    assert line["message"].endswith(" Fix the log call of the logger django.request.")
    assert CANARY not in json.dumps(line)


def test_console_shows_frames_but_no_message_of_an_exception() -> None:
    stream = capture_log("console")
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("app").exception("broken")
    first, error_type, frame = stream.getvalue().splitlines()
    assert "broken" in first
    assert error_type == "    builtins.ValueError"
    assert re.fullmatch(r"    .*test_logs.py:\d+ test_console_shows_frames_but_no_message_of_an_exception", frame)


# Development


@override_settings(ROOT_URLCONF="tests.support.failing_urls")
def test_development_logs_the_traceback_of_a_request() -> None:
    stream = capture_log("console", full_tracebacks=True)
    assert Client(raise_request_exception=False).get("/fail/").status_code == 500
    text = stream.getvalue()
    assert text.count("Traceback (most recent call last):") == 1
    assert "ValueError: message-of-exception 14" in text
    assert 'raise ValueError("message-of-" + f"exception {len(patient)}")' in text


def test_development_logs_chained_exceptions_and_escapes_control_characters() -> None:
    stream = capture_log("console", full_tracebacks=True)
    for log in (logging.getLogger("app"), structlog.stdlib.get_logger("app")):
        try:
            try:
                raise KeyError("cause")
            except KeyError as error:
                raise ValueError("x" * 20_000 + "\x1b[2J") from error
        except ValueError:
            log.exception("broken")
    text = stream.getvalue()
    assert text.count("KeyError: 'cause'") == 2
    assert text.count("The above exception was the direct cause of the following exception:") == 2
    assert text.count("x" * 20_000 + "\\x1b[2J") == 2
    assert all(line.isprintable() for line in text.split("\n"))


def test_development_logs_tracebacks_of_commands_and_threads() -> None:
    done = run_python(["-c", UNCAUGHT], {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert done.returncode == 1
    assert done.stderr.count("Traceback (most recent call last):") == 3
    assert done.stderr.count(f"ValueError: {CANARY}") == 3


@pytest.mark.parametrize(
    "environment",
    [{**PRODUCTION, "LOG_FORMAT": "console"}, {**PRODUCTION, "LOG_LEVEL": "DEBUG"}, {"LOG_FORMAT": "json"}],
    ids=["production with console", "production at DEBUG", "development with JSON"],
)
def test_only_the_console_of_development_logs_messages(environment: dict[str, str]) -> None:
    done = run_python(["-c", UNCAUGHT], {**environment, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert "uncaught exception" in done.stderr
    assert CANARY not in done.stderr
    assert "Traceback" not in done.stderr


# Production


@pytest.mark.django_db
def test_sql_parameters_are_not_logged(lines: Read) -> None:
    User.objects.filter(full_name=CANARY).exists()
    with connection.schema_editor() as migration:  # logs every statement, also without DEBUG
        migration.execute("SELECT %s", [CANARY])
    assert CANARY not in json.dumps(lines())


@pytest.mark.django_db
def test_request_line_has_route_and_user_but_no_path(lines: Read, admin_client: Client, admin_user: User) -> None:
    admin_client.get(f"/admin/core/user/?q={CANARY}")
    (line,) = [line for line in lines() if line["logger"] == "voiceassist.request"]
    assert line["route"] == "admin/core/user/"
    assert line["user_id"] == str(admin_user.pk)
    assert line["method"] == "GET"
    assert line["status"] == 302  # to a URL without the term
    assert line["trace_id"]
    assert CANARY not in json.dumps(line)


@pytest.mark.django_db
def test_failed_login_does_not_log_the_user_name(lines: Read, client: Client) -> None:
    client.post("/admin/login/", {"username": f"{CANARY}@example.org", "password": CANARY})
    assert CANARY not in json.dumps(lines())


@pytest.mark.django_db
def test_captured_queries_are_not_logged(lines: Read) -> None:
    with CaptureQueriesContext(connection):
        User.objects.filter(full_name=CANARY).exists()
    assert CANARY not in json.dumps(lines())


def test_warnings_and_uncaught_exceptions_are_logged() -> None:
    done = run_python(["-c", UNCAUGHT], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert done.returncode == 1
    assert done.stdout == "result\n"
    warning, thread, unraisable, uncaught = (json.loads(line) for line in done.stderr.splitlines())
    assert warning["message"] == "UserWarning: a warning"
    assert warning["where"].endswith(":13")
    assert thread["thread"] == "a thread"
    for line in (thread, unraisable, uncaught):
        assert line["error"]["type"] == "builtins.ValueError"
        assert line["level"] in ("error", "critical")
    assert CANARY not in done.stderr


def test_stderr_lines_of_two_threads_are_not_merged(lines: Read) -> None:
    stream = StderrToLog()

    def write(name: str) -> None:
        for number in range(500):
            print(name, number, "end", file=stream)

    threads = [Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [line["message"] for line in lines()]
    for name in ("a", "b"):
        assert [m for m in messages if m.startswith(name)] == [f"{name} {number} end" for number in range(500)]


def test_stderr_line_without_line_break_is_not_lost(lines: Read) -> None:
    stream = StderrToLog()
    stream.write("a\nb")
    stream.write("\rc\u2028d")
    stream.flush()
    stream.flush()
    thread = Thread(target=lambda: stream.write("left by a thread"))
    thread.start()
    thread.join()
    assert [line["message"] for line in lines()] == ["a", "b\rc\u2028d", "left by a thread"]
    for _ in range(30):
        stream.write("." * 100)
    assert lines()[3]["message"].endswith(".… (2100 characters)")  # does not wait for the line break for ever


def test_stderr_to_log_has_the_descriptor_of_stderr() -> None:
    assert StderrToLog().fileno() == sys.__stderr__.fileno()  # type: ignore[union-attr]


# gunicorn

GUNICORN = ["-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "--bind", "127.0.0.1:0"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tests.nothing:application"], "No module named 'tests.nothing'"),
        (["--worker-class", "nothing", "voiceassist.wsgi:application"], "Error: class uri 'nothing' invalid"),
    ],
)
def test_failed_start_is_logged_with_its_reason(arguments: list[str], reason: str) -> None:
    done = run_python([*GUNICORN, *arguments], PRODUCTION)
    assert done.returncode != 0
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(reason in line["message"] or reason in str(line.get("error")) for line in lines), lines


MALFORMED = [
    "GET /%s",
    "%s / HTTP/1.1",
    "GET /%s HTTP/9.9",
    "GET /%s HTTP/1.1\r\n%s",
    "GET /%s HTTP/1.1\r\nHost: a\r\n%s : x",
    "GET /%s HTTP/1.1\r\nHost: a\r\nX: a\x00%s",
    "GET /%s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %s",
    "GET /%s HTTP/1.1\r\nHost: a\r\nContent-Length: %s",
    "GET /%s HTTP/1.1\r\nHost: a\r\nExpect: %s",
    "GET /%s HTTP/1.1\r\nHost: a\r\n %s",
    "POST /%s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s",
    "GET /" + "%s" * 1000 + " HTTP/1.1",
    "GET / HTTP/1.1\r\nX: %s" + "x" * 10_000,
]


def test_malformed_requests_are_not_quoted() -> None:
    canary = CANARY.replace(" ", "-")
    with VoiceAssistServer(LOG_LEVEL="DEBUG", WEB_CONCURRENCY="1") as app:
        for request in MALFORMED:
            with socket.create_connection(("127.0.0.1", app.port), 5) as client:
                client.sendall(request.replace("%s", canary).encode() + b"\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        assert app.get("/", headers={"X-Request-ID": "last-request"})[0] == 200
        assert succeeds_within(5, lambda: "last-request" in app.log())
        lines = app.log_lines()
        assert len([line for line in lines if line["message"] == "malformed request"]) > 5
        assert canary not in app.log().lower()


def test_server_logs_whole_lines() -> None:
    settings_module: dict[str, Any] = {"DJANGO_SETTINGS_MODULE": "tests.support.logging_settings"}
    with VoiceAssistServer(WEB_CONCURRENCY="1", **settings_module) as app:
        for path in ("print-in-threads", "print-without-line-break", "log-badly"):
            assert app.get(f"/{path}/")[0] == 200
        messages = app.log_messages()
        for name in ("a", "b"):
            expected = [f"thread {name} {number} end" for number in range(300)]
            assert [message for message in messages if message.startswith(f"thread {name}")] == expected
        assert {"left by a thread", "flushed"} <= set(messages)
        (dropped,) = [message for message in messages if message.startswith("Log record dropped")]
        assert re.search(r" \(TypeError\)\. Fix the log call at \S+/logging_urls\.py:\d+\.$", dropped)
        assert CANARY.replace(" ", "-") not in app.log()


def test_killed_worker_is_logged() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--timeout 2") as app:
        app.workers()[0].send_signal(signal.SIGSTOP)  # the master sends SIGABRT, then SIGKILL
        assert succeeds_within(30, lambda: "WORKER TIMEOUT" in app.log() and "SIGKILL" in app.log())
        lines = app.log_lines()
        assert {line["level"] for line in lines if "SIGKILL" in line["message"]} == {"error"}
        assert {line["level"] for line in lines if "TIMEOUT" in line["message"]} == {"critical"}
