"""The log: every line is one, whoever writes it, and none holds what may be PHI, however it is broken."""

import io
import json
import logging
import logging.config
import math
import re
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.models import Message, Session, User
from core.trace_id import clear_trace_id, set_trace_id
from tests.support.voiceassist_server import VoiceAssistServer
from tests.voiceassist.test_gunicorn import succeeds_within
from tests.voiceassist.test_settings import PRODUCTION, run
from voiceassist.logs.config import logging_config

CANARY = "canary of a patient"


Read = Callable[[], list[dict[str, Any]]]


def logging_to(style: str) -> io.StringIO:
    """Logs as production does, at DEBUG."""
    stream = io.StringIO()
    config = logging_config(level="DEBUG", style=style, service=settings.SERVICE)
    config["handlers"]["line"]["stream"] = stream
    logging.config.dictConfig(config)
    return stream


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    logging.config.dictConfig(settings.LOGGING)


@pytest.fixture
def lines() -> Read:
    stream = logging_to("json")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.django_db
def test_an_integrity_error_quotes_the_row_and_the_log_does_not(lines: Read) -> None:
    user = User.objects.create_user("ann@example.org")
    session = Session.objects.create(user=user, title=CANARY)
    try:
        with transaction.atomic():
            Message.objects.create(session=session, role="doctor", content=CANARY)
    except IntegrityError as error:
        assert CANARY in str(error)
        logging.getLogger("app").exception("can't store it")
        structlog.stdlib.get_logger("app").exception("can't store it")
    standard, ours = lines()[-2:]
    for line in (standard, ours):
        assert CANARY not in json.dumps(line)
        assert line["message"] == "can't store it"
        error_field = line["error"]
        assert error_field["type"] == "django.db.utils.IntegrityError"
        assert error_field["sqlstate"] == "23514"
        assert error_field["constraint"] == "messages_role_known"
        assert any("test_logs.py" in frame for frame in error_field["frames"])


class Hostile:
    def __repr__(self) -> str:
        raise ValueError(CANARY)

    __str__ = __repr__


HOSTILE = "a\n{}\r\x1b[2J\x1b[31m\x85\u2028\u202e\x00\udc80"


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_line_can_not_be_split_or_forged_by_input(style: str) -> None:
    stream = logging_to(style)
    logging.getLogger("app").info("first %s", HOSTILE)
    structlog.stdlib.get_logger("app").info(HOSTILE, route=HOSTILE, deep={HOSTILE: [HOSTILE]}, **{HOSTILE: 1})
    set_trace_id(HOSTILE)
    logging.getLogger("app\nb").info("third", extra={"x": HOSTILE})
    clear_trace_id()
    text = stream.getvalue().removesuffix("\n")
    written = text.split("\n")
    assert len(written) == 3
    assert all(line.isprintable() for line in written)


def test_no_caller_takes_the_place_of_what_every_line_has(lines: Read) -> None:
    false = dict.fromkeys(("timestamp", "level", "service", "logger", "message", "trace_id"), "false")
    set_trace_id("true")
    structlog.stdlib.get_logger("app").warning("said", **false)
    false.pop("message")  # logging itself refuses that one
    logging.getLogger("app").warning("said", extra=false)
    clear_trace_id()
    for line in lines():
        assert "false" not in line.values()
        assert (line["level"], line["logger"], line["message"], line["trace_id"]) == ("warning", "app", "said", "true")
        assert line["timestamp"].endswith("Z")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])) < timedelta(minutes=1)


def test_what_json_can_not_hold_breaks_no_line(lines: Read, capfd: pytest.CaptureFixture[str]) -> None:
    circle: list[Any] = []
    circle.append(circle)
    key = uuid4()
    values = {"a": Hostile(), "b": math.nan, "c": circle, "d": {(1, 2): b"x"}, "e": {1}, "f": key, "g": Session()}
    structlog.stdlib.get_logger("app").info("all", **values)
    logging.getLogger("app").info("%s", Hostile())
    logging.getLogger("app").info("%d", CANARY)
    logging.getLogger("app").info("fine", extra={"a": Hostile()})
    first, *broken, fine = lines()
    assert (first["a"], first["b"], first["f"], first["g"]) == ("<Hostile>", "nan", str(key), "<Session>")
    for line, kind in zip(broken, ("ValueError", "TypeError"), strict=True):
        assert f"test_logs.py:{line['message'].split(':')[-1].split()[0]} can't be written ({kind})" in line["message"]
    assert fine["message"] == "fine"
    assert CANARY not in json.dumps(lines())
    assert capfd.readouterr().err == ""


def test_a_line_has_an_end(lines: Read) -> None:
    logging.getLogger("app").info("x" * 1_000_000)
    structlog.stdlib.get_logger("app").info("many", values=["ü" * 5_000] * 1_000)
    long, many = lines()
    assert long["message"].endswith("x… (1000000 characters)")
    assert "too long" in many["message"]
    assert max(len(json.dumps(line)) for line in (long, many)) < 16_000


def test_an_exception_is_readable_on_a_console() -> None:
    stream = logging_to("console")
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("app").exception("broken")
    first, kind, frame = stream.getvalue().splitlines()
    assert "broken" in first
    assert kind == "    builtins.ValueError"
    assert re.fullmatch(r"    .*test_logs.py:\d+ test_an_exception_is_readable_on_a_console", frame)


@pytest.mark.django_db
def test_sql_values_are_not_logged(lines: Read) -> None:
    User.objects.filter(full_name=CANARY).exists()
    with connection.schema_editor() as migration:  # logs what a migration executes, whatever DEBUG says
        migration.execute("SELECT %s", [CANARY])
    assert CANARY not in json.dumps(lines())


@pytest.mark.django_db
def test_a_request_tells_route_and_user_but_no_path(lines: Read, admin_client: Client, admin_user: User) -> None:
    admin_client.get(f"/admin/core/user/?q={CANARY}")
    (line,) = [line for line in lines() if line["logger"] == "voiceassist.request"]
    assert line["route"] == "admin/core/user/"
    assert line["user_id"] == str(admin_user.pk)
    assert line["method"] == "GET"
    assert line["status"] == 200
    assert line["trace_id"]
    assert CANARY not in json.dumps(line)


@pytest.mark.django_db
def test_a_failed_login_names_nobody(lines: Read, client: Client) -> None:
    client.post("/admin/login/", {"username": f"{CANARY}@example.org", "password": CANARY})
    assert CANARY not in json.dumps(lines())


@pytest.mark.django_db
def test_values_of_statements_are_not_logged_while_somebody_looks_at_them(lines: Read) -> None:
    with CaptureQueriesContext(connection):
        User.objects.filter(full_name=CANARY).exists()
    assert CANARY not in json.dumps(lines())


# What Python prints by itself

BY_ITSELF = f"""
import sys, threading, warnings, django
django.setup()

class Broken:
    def __del__(self):
        raise ValueError({CANARY!r})

def fail():
    raise ValueError({CANARY!r})

print("what was asked for")
warnings.warn("a warning")
thread = threading.Thread(target=fail, name="a thread")
thread.start()
thread.join()
Broken()
fail()
"""


def test_what_python_prints_by_itself_is_a_line_too() -> None:
    done = run(["-c", BY_ITSELF], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert done.returncode == 1
    assert done.stdout == "what was asked for\n"
    warning, thread, ignored, end = (json.loads(line) for line in done.stderr.splitlines())
    assert warning["message"] == "UserWarning: a warning"
    assert warning["where"].endswith(":13")
    assert thread["thread"] == "a thread"
    for line in (thread, ignored, end):
        assert line["error"]["type"] == "builtins.ValueError"
        assert line["level"] in ("error", "critical")
    assert CANARY not in done.stderr


# gunicorn

GUNICORN = ["-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "--bind", "127.0.0.1:0"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tests.nothing:application"], "No module named 'tests.nothing'"),
        (["--worker-class", "nothing", "voiceassist.wsgi:application"], "Error: class uri 'nothing' invalid"),
    ],
)
def test_a_server_that_does_not_start_says_why_in_lines(arguments: list[str], told: str) -> None:
    done = run([*GUNICORN, *arguments], PRODUCTION)
    assert done.returncode != 0
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(told in line["message"] or told in str(line.get("error")) for line in lines), lines


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


def test_gunicorns_lines_tell_nothing_of_a_request_it_can_not_read() -> None:
    canary = CANARY.replace(" ", "-")
    with VoiceAssistServer(LOG_LEVEL="DEBUG", WEB_CONCURRENCY="1") as app:
        for request in MALFORMED:
            with socket.create_connection(("127.0.0.1", app.port), 5) as client:
                client.sendall(request.replace("%s", canary).encode() + b"\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        assert app.get("/", headers={"X-Request-ID": "the-last"})[0] == 200
        assert succeeds_within(5, lambda: "the-last" in app.log())
        told = [json.loads(line) for line in app.log().splitlines()]
        assert len([line for line in told if line["message"] == "malformed request"]) > 5
        assert canary not in app.log().lower()


def test_the_end_of_a_worker_is_told_in_lines() -> None:
    with VoiceAssistServer(WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--timeout 2") as app:
        app.workers()[0].send_signal(signal.SIGSTOP)  # the master asks it to end, and then kills it
        assert succeeds_within(30, lambda: "WORKER TIMEOUT" in app.log() and "SIGKILL" in app.log())
        told = [json.loads(line) for line in app.log().splitlines()]
        assert {line["level"] for line in told if "SIGKILL" in line["message"]} == {"error"}
        assert {line["level"] for line in told if "TIMEOUT" in line["message"]} == {"critical"}
