"""Every page shows rows whose values are long, or which Python can't load, because other code stored them."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client

from core.admin.stored_text import indented
from core.models import AuditEvent, Message, Session
from tests.support.reveal import REASON

pytestmark = pytest.mark.django_db

NOT_LOADABLE = {
    "500 levels": "[" * 500 + "]" * 500,
    "900 levels": '{"a":' * 900 + "1" + "}" * 900,
    "990 levels": "[" * 990 + "]" * 990,
    "9,000 levels": "[" * 9_000 + "]" * 9_000,
    "long integer": "1" * 10_000,
    "long fraction": "0." + "1" * 10_000,
}


def update(table: str, assignments: str, *values: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {assignments}", values)


def assert_pages_open(client: Client, message: Message) -> None:
    for row in (message, message.session):
        name = f"/admin/core/{row._meta.model_name}/"
        for page in (name, f"{name}{row.pk}/change/", f"{name}{row.pk}/delete/"):
            response = client.get(page)
            assert response.status_code == 200, page
            assert len(response.content) < 100_000


def revealed(client: Client, row: Any) -> str:
    response = client.post(f"/admin/core/{row._meta.model_name}/{row.pk}/reveal/", REASON)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("text", NOT_LOADABLE.values(), ids=NOT_LOADABLE)
def test_pages_show_json_that_python_cannot_load(admin_client: Client, message: Message, text: str) -> None:
    value = f'{{"x": {text}}}'
    columns = ("tool_calls", "tool_results", "metadata")
    update("messages", ", ".join(f"{column} = %s::jsonb" for column in columns), *([value] * len(columns)))
    update("sessions", "context = %s::jsonb", value)
    assert_pages_open(admin_client, message)
    for row, number in ((message, 3), (message.session, 1)):
        page = revealed(admin_client, row)
        letters = "".join(page.split()).replace("&quot;", '"')
        assert letters.count("".join(value.split())) == number


def test_actions_apply_to_rows_that_python_cannot_load(admin_client: Client, message: Message) -> None:
    session = message.session
    update("messages", "metadata = %s::jsonb", NOT_LOADABLE["990 levels"])
    update("sessions", "context = %s::jsonb", NOT_LOADABLE["990 levels"])
    for action in ("end", "archive"):
        form = {"action": action, "_selected_action": [str(session.pk)]}
        assert admin_client.post("/admin/core/session/", form).status_code == 302
    assert Session.objects.defer("context").get(ended_at__isnull=False, is_archived=True).pk == session.pk
    for row in (message, session):
        assert (
            admin_client.post(f"/admin/core/{row._meta.model_name}/{row.pk}/delete/", {"post": "yes"}).status_code
            == 302
        )
    assert not Session.objects.exists()


@pytest.mark.parametrize(
    "changes",
    [
        *NOT_LOADABLE.values(),
        "[]",
        "5",
        '{"a": 1}',
        '{"a": [1, 2, 3]}',
        '{"permission_id": ["x", [1]]}',
        '{"group_id": [1e40, true]}',
    ],
)
def test_audit_pages_show_events_that_the_triggers_did_not_write(admin_client: Client, changes: str) -> None:
    event = AuditEvent.objects.create(action="change", table="users")
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO audit_events (id, created_at, action, "table", object_id, actor_email, trace_id, changes)'
            " SELECT gen_random_uuid(), now(), action, \"table\", 'other', '', '', %s::jsonb FROM audit_events"
            " WHERE id = %s RETURNING id",
            [changes, event.pk],
        )
        (key,) = cursor.fetchone()
    assert admin_client.get("/admin/core/auditevent/").status_code == 200
    assert admin_client.get(f"/admin/core/auditevent/{key}/change/").status_code == 200


def test_pages_show_long_values(admin_client: Client, message: Message) -> None:
    content = "<é" * 2_500_000  # 7.5 MB
    numbers = ",".join(["7"] * 1_000_000)
    array = "[" * 100 + numbers + "]" * 100
    update("messages", "content = %s, metadata = %s::jsonb", content, array)
    assert_pages_open(admin_client, message)
    page = revealed(admin_client, message)
    assert "&lt;é" * 2_500_000 in page
    # Indented by its depth, the array would be 200 MB.
    assert "[" * 100 + numbers.replace(",", ", ") + "]" * 100 in page


@pytest.mark.parametrize("empty", ["", None, {}, []])
def test_empty_values_are_shown_as_empty(admin_client: Client, message: Message, empty: Any) -> None:
    Message.objects.update(tool_calls=empty or None, content="", metadata={} if empty is None else empty)
    page = admin_client.get(f"/admin/core/message/{message.pk}/change/").content.decode()
    assert page.count("(empty)") == (2 if empty == "" else 3)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a": [1, "é"]}', '{\n  "a": [\n    1,\n    "é"\n  ]\n}'),
        ("[" * 101 + "]" * 101, "[" * 101 + "]" * 101),
        ('{"a": 0.12345678901234567890}', '{"a": 0.12345678901234567890}'),
        ("1" * 5000, "1" * 5000),
        ("not JSON", "not JSON"),
        ("", ""),
    ],
    ids=["JSON", "deep", "exact number", "long integer", "text", "empty"],
)
def test_json_is_indented_if_python_can_load_it(text: str, shown: str) -> None:
    assert (indented(text) == shown) is True  # pytest would compare long texts line by line
