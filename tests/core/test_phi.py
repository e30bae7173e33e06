"""The declaration of sensitive columns, and redaction in `repr()`, error reports and Sentry events."""

import json
import re
import sys
from typing import Any

import pytest
import sentry_sdk
from django.apps import apps
from django.core.checks import registry
from django.db import IntegrityError, connection, models, transaction
from django.test import RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.views.debug import get_exception_reporter_class, technical_500_response
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

from core import phi
from core.models import BaseModel, Message, Session, User

CANARY = "canary-of-a-patient"


@pytest.fixture
def message(db: None) -> Message:
    user = User.objects.create_user("ann@example.org", full_name=CANARY)
    session = Session.objects.create(user=user, title=CANARY, context={"patient": CANARY})
    return Message.objects.create(session=session, role="user", content=CANARY, metadata={"patient": CANARY})


# The declaration


def test_every_column_is_declared() -> None:
    assert phi.check_declarations(None) == []
    assert {model.__name__ for model in apps.get_app_config("core").get_models()} >= {"User", "Session", "Message"}


def test_declared_columns() -> None:
    assert phi.columns(Message, "PHI") == ["content", "audio_url", "tool_calls", "tool_results", "metadata"]
    assert phi.columns(Session, "PHI") == ["title", "context"]
    assert phi.columns(User, "PERSONAL", "SECRET") == ["password", "email", "full_name"]
    always = ["id", "created_at", "updated_at"]
    assert phi.columns(Session, "NON_SENSITIVE") == [
        *always,
        "user_id",
        "mode",
        "is_archived",
        "message_count",
        "ended_at",
    ]
    assert phi.columns(Session) == []


def test_stored_fields_are_the_columns_of_the_table(db: None) -> None:
    for model in apps.get_app_config("core").get_models():
        with connection.cursor() as cursor:
            table = connection.introspection.get_table_description(cursor, model._meta.db_table)
        columns = {column.name for column in table} - {"position", "words"}  # only the database knows these
        assert {field.column for field in phi.stored_fields(model)} == columns, model


def test_check_runs_at_every_start() -> None:
    assert phi.check_declarations in registry.registry.get_checks()


@isolate_apps("core")
def test_check_refuses_undeclared_column() -> None:
    class Note(BaseModel):
        PHI = ("text",)
        NON_SENSITIVE = ("text", "kind")
        text = models.TextField()
        kind = models.TextField()
        diagnosis = models.TextField()

        class Meta:
            app_label = "core"

    duplicate, missing = sorted(phi.declaration_errors(Note), key=lambda error: str(error.msg), reverse=True)
    assert "core.Note.text is declared in PHI and NON_SENSITIVE" in duplicate.msg
    assert "core.Note.diagnosis is declared in none" in missing.msg
    assert missing.id == "core.E001"
    assert missing.obj is Note
    assert "If in doubt, declare it as PHI" in str(missing.hint)


# Masking


def test_masked_shows_only_a_class_of_sizes() -> None:
    lengths = {"short": (1, 50), "medium": (51, 500), "long": (501, 5_000), "very long": (5_001, 10_000_000)}
    assert phi.masked(0) == "(empty)"
    for size, (shortest, longest) in lengths.items():
        assert phi.masked(shortest) == phi.masked(longest) == f"●●●●●● ({size})"


def test_screen_readers_read_no_symbols() -> None:
    visible, read_aloud = re.findall("<span (.*?)>(.*?)</span>", phi.masked_html(7))
    assert visible == ('aria-hidden="true"', "●●●●●● (short)")
    assert read_aloud == ('class="visually-hidden"', "hidden (short)")
    assert phi.masked_html(0) == "(empty)"


def test_rows_print_only_their_key(message: Message) -> None:
    for row in (message, message.session, message.session.user):
        for text in (str(row), repr(row), f"{row!r:>80}", repr([row]), repr({"row": row})):
            assert CANARY not in text
            assert "ann@" not in text
            assert str(row.pk) in text


# Django's error reports


def captured_exception(canary: str) -> Any:
    """Return the exc_info of an exception whose messages and local variables contain `canary`."""
    local = {"patient": canary}
    try:
        with transaction.atomic():
            Message.objects.create(session=Session.objects.get(), role="doctor", content=local["patient"])
    except IntegrityError as error:
        try:
            raise ValueError(canary) from error
        except ValueError as outer:
            outer.add_note(canary)
            return sys.exc_info()


@pytest.mark.parametrize("form", ["text", "html"])
def test_error_report_shows_the_location_and_no_values(message: Message, rf: RequestFactory, form: str) -> None:
    request = rf.post(f"/{CANARY}?q={CANARY}", {"content": CANARY}, headers={"x-patient": CANARY})
    request.COOKIES["patient"] = CANARY
    request.user = message.session.user
    exc_info = captured_exception(CANARY)
    assert "canary" in str(exc_info[1].__cause__)  # the report could leak it
    reporter_class: Any = get_exception_reporter_class(request)
    reporter = reporter_class(request, *exc_info, is_email=form == "html")
    report = reporter.get_traceback_text() if form == "text" else reporter.get_traceback_html()
    assert CANARY not in report
    assert "ann@" not in report
    assert "ValueError" in report
    assert "test_phi.py" in report


def test_error_report_keeps_names_and_classes(message: Message, rf: RequestFactory) -> None:
    data = phi.Reporter(rf.post("/"), *captured_exception(CANARY)).get_traceback_data()
    assert (data["exception_type"], data["exception_value"], data["exception_notes"]) == ("ValueError", phi.MASK, "")
    assert data["settings"] == {}
    assert data["request"] is None
    frames = {(frame["function"], name, value) for frame in data["frames"] for name, value in frame["vars"]}
    assert ("captured_exception", "canary", repr(phi.MASK)) in frames
    causes = {frame["exc_cause"] for frame in data["frames"]}
    assert causes == {None, "CheckViolation", "IntegrityError"}


def test_error_report_quotes_no_text_that_is_not_utf8(rf: RequestFactory) -> None:
    """Django would quote what surrounds the characters that could not be converted."""
    try:
        f"{CANARY} \ud800".encode()
    except UnicodeEncodeError:
        exc_info: Any = sys.exc_info()
    reporter = phi.Reporter(rf.post("/"), *exc_info)
    assert reporter.get_traceback_data()["unicode_hint"] == ""
    assert reporter.is_email is False
    assert CANARY not in reporter.get_traceback_html()


@override_settings(DEBUG=True)
def test_debug_page_contains_no_values(message: Message, rf: RequestFactory) -> None:
    request = rf.get(f"/{CANARY}")
    page = technical_500_response(request, *captured_exception(CANARY)).content.decode()
    assert "IntegrityError" in page
    assert CANARY not in page


# Sentry's events


def events(**options: Any) -> list[dict[str, Any]]:
    """Return the events sent to Sentry for `captured_exception`."""
    sent: list[Envelope] = []

    class RecordingTransport(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            sent.append(envelope)

    client = sentry_sdk.Client(
        "https://key@sentry.example.org/1",
        transport=RecordingTransport,
        default_integrations=False,
        include_local_variables=True,
        **options,
    )
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        scope.set_user({"email": "ann@example.org"})
        scope.set_tag("patient", CANARY)
        scope.set_extra("patient", CANARY)
        scope.set_transaction_name(f"/{CANARY}")
        scope.add_breadcrumb(message=CANARY)
        event, hint = event_from_exception(captured_exception(CANARY), client_options=client.options)
        event["request"] = {"url": CANARY, "data": {"content": CANARY}}
        event["logentry"] = {"message": CANARY}
        scope.capture_event(event, hint)
        client.flush()
    return [json.loads(item.get_bytes()) for envelope in sent for item in envelope.items]


def test_sentry_event_contains_no_values(message: Message) -> None:
    assert CANARY in json.dumps(events())  # otherwise the check of the redacted event would prove nothing
    (event,) = events(before_send=phi.before_send)
    text = json.dumps(event)
    assert CANARY not in text
    assert "ann@" not in text
    assert {e["type"] for e in event["exception"]["values"]} >= {"ValueError", "IntegrityError", "CheckViolation"}
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    assert any(frame["function"] == "captured_exception" for frame in frames)


def test_sentry_event_keeps_only_listed_keys() -> None:
    kept = {
        name: name
        for name in ("event_id", "timestamp", "platform", "level", "release", "environment", "server_name", "sdk")
    }
    frame = {name: name for name in ("filename", "abs_path", "module", "function", "lineno", "in_app")}
    dropped = {"vars": {"a": CANARY}, "context_line": CANARY, "message": CANARY, "extra": CANARY}
    exception = {"type": "ValueError", "module": "builtins"}
    sent = {
        **kept,
        **dropped,
        "exception": {
            **dropped,
            "values": [
                {
                    **exception,
                    **dropped,
                    "value": CANARY,
                    "stacktrace": {**dropped, "frames": [{**frame, **dropped}, {}]},
                },
                {"type": "KeyError", "value": CANARY, "stacktrace": None},
            ],
        },
    }
    assert phi.before_send(sent, {}) == {
        **kept,
        "exception": {
            "values": [
                {**exception, "value": phi.MASK, "stacktrace": {"frames": [frame, {}]}},
                {"type": "KeyError", "module": None, "value": phi.MASK, "stacktrace": {"frames": []}},
            ]
        },
    }
    assert phi.before_send({"message": CANARY}, {}) == {"exception": {"values": []}}
