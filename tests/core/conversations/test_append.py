"""Values that `append_message` refuses, and which values of a resent message count as the same."""

from functools import partial
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import conversations
from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.conversations import append_message, read_messages
from core.deletion import delete_messages
from core.models import Message, Session, User
from core.models.fields import MAX_JSON_DEPTH
from core.phi import stored_fields
from tests.core.test_conversations import counts, error_code

pytestmark = pytest.mark.django_db


@pytest.fixture
def session() -> Session:
    return Session.objects.create(user=User.objects.create_user("ann@example.org"))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _json(field: str, value: Any) -> dict[str, Any]:
    return {field: {"x": value}}


def repr_of_any_number(value: Any) -> str:
    """Return the beginning of `repr`, also for an integer that is too long for it."""
    try:
        return repr(value)[:40]
    except ValueError:
        return "long integer"


# Invalid values


@pytest.mark.parametrize(
    "invalid",
    [
        {"role": "doctor"},
        {"role": ""},
        {"tokens": -1},
        {"tokens": 2**31},
        {"client_message_id": ""},
        {"client_message_id": "x" * 300},
        {"model": "x" * 300},
        {"tokens": 10**12},
        {"tokens": 10**400},
        {"tokens": float("inf")},
        {"tokens": float("nan")},
        {"tokens": "seven"},
        {"contains_phi": "perhaps"},
        {"content": "nul \x00"},
        {"content": "half \ud83d"},
        {"content": None},
        {"role": None},
        {"role": "\x00"},
        {"audio_url": None},
        {"model": "\ud83d"},
        {"client_message_id": "\x00"},
        {"client_message_id": "\ud83d"},
        {"contains_phi": None},
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": float("-inf")}},
        {"metadata": {"x": "\x00"}},
        {"metadata": {"\x00": 1}},
        {"metadata": {"\udfff": 1}},
        {"metadata": {"x": b"1"}},
        {"metadata": {"x": timezone.now()}},
        {"metadata": {(1, 2): 3}},
        {"tool_calls": {1, 2}},
        {"tool_results": [10**4300]},
    ],
    ids=repr_of_any_number,
)
def test_rejects_invalid_values_without_quoting_them(session: Session, invalid: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as raised:
        append_message(session.pk, **{"role": "user", **invalid})
    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    response = str(raised.value.details) + str(raised.value)
    for value in invalid.values():
        assert not value or repr_of_any_number(value) not in response
    assert counts(session) == (0, 0)


@pytest.mark.parametrize(
    ("invalid", "details"),
    [
        ({"content": None}, {"content": ["null"]}),
        ({"client_message_id": ""}, {"client_message_id": ["blank"]}),
        ({"tokens": float("inf")}, {"tokens": ["invalid"]}),
        ({"role": "doctor"}, {"role": ["invalid_choice"]}),
    ],
    ids=repr,
)
def test_names_the_invalid_field_and_the_kind_of_error(
    session: Session, invalid: dict[str, Any], details: dict[str, list[str]]
) -> None:
    with pytest.raises(ApiError) as raised:
        append_message(session.pk, **{"role": "user", **invalid})
    assert raised.value.details == details


def circular_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("field", ["tool_calls", "tool_results", "metadata"])
@pytest.mark.parametrize(
    "value",
    [nested(MAX_JSON_DEPTH + 1), nested(1000), nested(100_000), {"a": nested(MAX_JSON_DEPTH)}, circular_list()],
    ids=["101", "1,000", "100,000", "object", "circular"],
)
def test_rejects_deeply_nested_json(session: Session, field: str, value: Any) -> None:
    with pytest.raises(ApiError) as raised:
        append_message(session.pk, role="user", **{field: value})
    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    assert raised.value.details == {field: ["too_deep"]}


def test_stores_json_of_the_maximum_depth(session: Session) -> None:
    value = {"a": nested(MAX_JSON_DEPTH - 1)}
    message = append_message(session.pk, role="user", tool_calls=value, tool_results=value, metadata=value)
    message.refresh_from_db()
    assert message.tool_calls == message.tool_results == message.metadata == value


@pytest.mark.parametrize(
    "session_id", ["", "x", "\x00", "\ud83d", "{}", 5, None, "0198c000-0000-7000-8000-00000000000g"]
)
def test_session_id_that_is_not_a_uuid_is_not_found(session_id: Any) -> None:
    for call in (
        lambda: append_message(session_id, role="user"),
        lambda: read_messages(session_id),
        lambda: conversations.end_session(session_id),
        lambda: conversations.archive_session(session_id),
    ):
        assert error_code(call) is ErrorCode.NOT_FOUND


# Retries


SAME_JSON: list[tuple[Any, Any]] = [
    (1e300, 1e300),
    (1.7641589161234568e18, 1.7641589161234568e18),
    (1e23, 10**23),
    (5e-324, 5e-324),
    (1.0, 1),
    (-0.0, 0),
    (10**400, 10**400),
    ((1, (2,)), [1, [2]]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "a", None: "b", False: "c"}, {"1": "a", "null": "b", "false": "c"}),
    ({"a": 1, "b": None}, {"a": 1, "b": None}),
    ("\u00e9", "é"),
    ("😷", "\U0001f637"),
    (nested(MAX_JSON_DEPTH - 1), nested(MAX_JSON_DEPTH - 1)),
]
DIFFERENT_JSON: list[tuple[Any, Any]] = [
    (1, True),
    (0, False),
    (1, "1"),
    (0, None),
    ("", None),
    ([], {}),
    ([1, 2], [2, 1]),
    ({"a": None}, {}),
    (0.1, 0.10000000000000002),
    (10**400, 10**400 + 1),
    ("\u00e9", "e\u0301"),
    ("a", "A"),
    ("a", "a "),
    (nested(50), nested(51)),
]


@pytest.mark.parametrize("field", ["tool_calls", "tool_results", "metadata"])
@pytest.mark.parametrize(("sent", "resent"), SAME_JSON, ids=repr_of_any_number)
def test_same_json_is_the_same_message(session: Session, field: str, sent: Any, resent: Any) -> None:
    first = append_message(session.pk, role="user", client_message_id="1", **_json(field, sent))
    with CaptureQueriesContext(connection) as queries:
        retried = append_message(session.pk, role="user", client_message_id="1", **_json(field, resent))
    assert retried.pk == first.pk
    assert len([query for query in queries if query["sql"].startswith("SELECT") and "messages" in query["sql"]]) == 1


@pytest.mark.parametrize("field", ["tool_calls", "tool_results", "metadata"])
@pytest.mark.parametrize(("sent", "resent"), DIFFERENT_JSON, ids=repr_of_any_number)
def test_different_json_is_a_conflict(session: Session, field: str, sent: Any, resent: Any) -> None:
    for before, after in ((sent, resent), (resent, sent)):
        key = str(uuid4())
        append_message(session.pk, role="user", client_message_id=key, **_json(field, before))
        retry = partial(append_message, session.pk, role="user", client_message_id=key, **_json(field, after))
        assert error_code(retry) is ErrorCode.CONFLICT


ALL_VALUES: dict[str, list[Any]] = {
    "role": ["user", "tool"],
    "content": ["", "a", "A", "a ", "é", "e\u0301"],
    "audio_url": ["", "https://a"],
    "model": ["", "m"],
    "tokens": [None, 0, 1, 2**31 - 1],
    "tool_calls": [None, [], {}, "", 0, False, [None]],
    "tool_results": [None, [], {}, "", 0, False, [None]],
    "metadata": [{}, [], "", 0, False, {"a": {}}],
    "contains_phi": [True, False],
}


@pytest.mark.parametrize("field", ALL_VALUES)
def test_retry_is_the_same_message_only_if_every_field_is_equal(session: Session, field: str) -> None:
    for sent, resent in product(ALL_VALUES[field], repeat=2):
        key = str(uuid4())
        append = partial(append_message, session.pk, client_message_id=key)
        append(**{"role": "user", field: sent})
        retry = partial(append, **{"role": "user", field: resent})
        if type(sent) is type(resent) and sent == resent:
            assert retry().client_message_id == key
        else:
            assert error_code(retry) is ErrorCode.CONFLICT, (sent, resent)


def test_every_column_is_compared() -> None:
    columns = {field.name for field in stored_fields(Message)}
    assert set(ALL_VALUES) == columns - {"id", "created_at", "updated_at", "session", "client_message_id"}


def test_equal_forms_of_a_value_are_the_same_message(session: Session) -> None:
    """`append_message` converts values as Django's fields do."""
    sent = {"role": "user", "content": "5", "tokens": 7, "contains_phi": True, "metadata": {}}
    resent: dict[str, Any] = {"role": "user", "content": 5, "tokens": "7", "contains_phi": "t", "metadata": None}
    append = partial(append_message, session.pk, client_message_id="1")
    assert append(**sent).pk == append(**resent).pk  # type: ignore[arg-type]


@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_deleted_during_its_retry_is_stored_again(session: Session) -> None:
    append = partial(append_message, session.pk, role="user", client_message_id="1")
    first = append()

    def delete_before_lookup(execute: Any, sql: str, *args: Any) -> Any:
        if "IS NOT DISTINCT FROM" in sql:
            delete_messages(Message.objects.filter(pk=first.pk))
        return execute(sql, *args)

    with connection.execute_wrapper(delete_before_lookup):
        assert append().pk != first.pk
    assert counts(session) == (1, 1)


@pytest.mark.parametrize("field", ["client_message_id", "model"])
def test_refuses_free_text_in_identifiers(session: Session, field: str) -> None:
    """Staff see, search and audit them unmasked."""
    for identifier in (
        "0198c000-0000-7000-8000-000000000000",
        "gpt-4o-2024-08-06",
        "org/model:latest",
        "aGk+/w==",
        "a_b",
    ):
        append_message(session.pk, role="user", **{field: identifier})  # type: ignore[arg-type]
    for text in ("Jane Roe", "jane@example.org", "HIV, since 1970", "a\nb", "a\n", "ü", "<b>"):
        with pytest.raises(ApiError) as raised:
            append_message(session.pk, role="user", **{field: text})  # type: ignore[arg-type]
        assert raised.value.details == {field: ["invalid"]}
    old = Message.objects.create(session=session, role="user", **{field: "stored before, with spaces"})
    assert getattr(Message.objects.get(pk=old.pk), field) == "stored before, with spaces"
