"""Every PHI column: what each page reads, hides and reveals."""

import re

import pytest
from django.db import connection
from django.db.models import JSONField
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from core.models import Message, Session
from tests.support.reveal import REASON

pytestmark = pytest.mark.django_db

COLUMNS = [(model, name) for model in (Session, Message) for name in model.PHI]


def canary(model: type[Session | Message], name: str) -> str:
    """Return a text that only this column contains."""
    return f"canary-{model.__name__}-{name}".lower().replace("_", "-")


@pytest.fixture(autouse=True)
def canaries(message: Message) -> None:
    for model, name in COLUMNS:
        text = canary(model, name)
        is_json = isinstance(model._meta.get_field(name), JSONField)
        model._default_manager.update(**{name: {"patient": [text]} if is_json else text})


def shown(text: str) -> list[str]:
    return sorted(set(re.findall(r"canary-[a-z-]+", text)))


def loaded(queries: CaptureQueriesContext) -> list[str]:
    """Return the queries that load a whole PHI column. PostgreSQL computes lengths and beginnings from `(…)::text`."""
    names = "|".join(rf'"{model._meta.db_table}"\."{name}"' for model, name in COLUMNS)
    return [query["sql"] for query in queries if re.search(rf"({names})(?!\)::text)", query["sql"])]


def all_of(*models: type[Session | Message]) -> list[str]:
    return sorted(canary(model, name) for model, name in COLUMNS if model in models)


def test_reveal_shows_every_column_of_the_row(admin_client: Client, message: Message) -> None:
    for row in (message, message.session):
        page = f"/admin/core/{row._meta.model_name}/{row.pk}/reveal/"
        assert shown(admin_client.post(page, REASON).content.decode()) == all_of(type(row))


def test_text_is_shown_as_it_is_and_json_with_one_line_per_value(admin_client: Client, message: Message) -> None:
    Message.objects.update(content='{"a": [1]}', metadata={"a": [1]}, audio_url="https://audio.example.org/1?a=b&c")
    for view in ("reveal", "read"):
        text = admin_client.post(f"/admin/core/message/{message.pk}/{view}/", REASON).content.decode()
        for shown_text in ('{"a": [1]}', '{\n  "a": [\n    1\n  ]\n}', "https://audio.example.org/1?a=b&c"):
            assert text.count(escape(shown_text)) == 1
    for label in ("content", "audio URL", "tool calls", "tool results", "metadata"):
        assert label.lower() in text.lower()


def test_conversation_shows_every_column_of_the_session_and_its_messages(
    admin_client: Client, message: Message
) -> None:
    for row in (message, message.session):
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.post(f"/admin/core/{row._meta.model_name}/{row.pk}/read/", REASON)
        assert shown(response.content.decode()) == all_of(Session, Message)
        assert loaded(queries) == []  # only the beginnings, because a value may be long


def test_no_other_page_reads_or_shows_a_column(admin_client: Client, pages: dict[str, str], message: Message) -> None:
    keys = {"user": message.session.user_id, "session": message.session_id, "message": message.pk}
    more = [f"/admin/core/{model}/{key}/{page}/" for model, key in keys.items() for page in ("delete", "history")]
    searches = [f"/admin/core/{model}/?q={key}" for model, key in (*keys.items(), ("auditevent", keys["user"]))]
    scopes = [
        f"/admin/core/session/?user__id__exact={keys['user']}",
        f"/admin/core/message/?session__id__exact={keys['session']}&role__exact=user",
        *(f"/admin/core/auditevent/?object_id__exact={key}" for key in keys.values()),
    ]
    for page in [*pages.values(), *more, *searches, *scopes, "/admin/"]:
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.get(page, follow=True)
        assert response.status_code == 200
        assert shown(response.content.decode()) == [], page
        assert loaded(queries) == [], page


@pytest.mark.parametrize("model", ["message", "session", "user"])
def test_actions_neither_read_nor_show_a_column(admin_client: Client, message: Message, model: str) -> None:
    keys = {"message": message.pk, "session": message.session_id, "user": message.session.user_id}
    form = {"action": "delete_selected", "_selected_action": str(keys[model])}
    for post in ({}, {"post": "yes"}):
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.post(f"/admin/core/{model}/", form | post, follow=True)
        assert response.status_code == 200
        assert shown(response.content.decode()) == []
        assert loaded(queries) == []
    assert not Message.objects.exists()
