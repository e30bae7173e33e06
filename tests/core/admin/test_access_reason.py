"""PHI is revealed only for a reason, which the audit trail stores and no log or URL contains."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from pytest_django import Settings

from core.models import AuditEvent, Message
from tests.core.admin.conftest import CANARY
from tests.support.reveal import REASON, RECORDED_REASON

pytestmark = pytest.mark.django_db

VIEWS = ("reveal", "read")
NOTHING = "Nothing has been revealed."


def urls(message: Message) -> list[str]:
    rows: tuple[Any, ...] = (message, message.session)
    return [f"/admin/core/{row._meta.model_name}/{row.pk}/{view}/" for row in rows for view in VIEWS]


def recorded() -> list[Any]:
    events = AuditEvent.objects.filter(action="reveal").order_by("created_at")
    return [event.changes.get("reason") for event in events]


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "Choose a reason."),
        ({"reason": "", "details": "ticket"}, "Choose a reason."),
        ({"reason": "curiosity"}, "Select a valid choice."),
        ({"reason": "other"}, "Describe the reason"),
        ({"reason": "other", "details": "  "}, "Describe the reason"),
        ({"reason": "support", "details": "x" * 201}, "at most 200 characters"),
        ({"reason": "support", "details": "a\0b"}, "Null characters are not allowed."),
    ],
    ids=["none", "only details", "unknown", "other without details", "blank details", "long", "NUL"],
)
def test_reveals_nothing_without_a_reason(
    admin_client: Client, message: Message, form: dict[str, str], error: str
) -> None:
    for url in urls(message):
        response = admin_client.post(url, form)
        text = response.content.decode()
        assert response.status_code == 200
        assert error in text
        assert NOTHING in text
        assert f">{'Reveal PHI' if url.endswith('/reveal/') else 'Read conversation'}</button>" in text
        assert CANARY not in text
    assert recorded() == []
    # The page that shows the error has the same form.
    for url in urls(message):
        assert CANARY in admin_client.post(url, REASON).content.decode()
    assert len(recorded()) == 4


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"reason": "privacy"}, "Privacy or security review"),
        ({"reason": "other", "details": " court order 7 "}, "Other: court order 7"),
        ({"reason": "quality", "details": "<b>é"}, "Quality review: <b>é"),
    ],
    ids=["choice", "other", "details"],
)
def test_audit_page_shows_the_reason(admin_client: Client, message: Message, form: dict[str, str], reason: str) -> None:
    admin_client.post(urls(message)[0], form)
    assert recorded() == [[None, reason]]
    event = AuditEvent.objects.get(action="reveal")
    page = admin_client.get(f"/admin/core/auditevent/{event.pk}/change/").content.decode()
    assert reason.replace("<b>", "&lt;b&gt;") in page


def test_every_choice_is_recorded_in_words(admin_client: Client, message: Message) -> None:
    choices = {
        "support": "Support request from the user",
        "incident": "Incident or error analysis",
        "privacy": "Privacy or security review",
        "quality": "Quality review",
        "other": "Other",
    }
    page = admin_client.get(f"/admin/core/message/{message.pk}/change/").content.decode()
    offered = re.findall(r'<option value="(\w*)"[^>]*>(.*?)</option>', page)
    assert dict(offered) == {"": "Choose a reason", **choices}
    details = "x" * 200
    for choice in choices:
        admin_client.post(urls(message)[0], {"reason": choice, "details": details})
    assert recorded() == [[None, f"{label}: {details}"] for label in choices.values()]


def test_form_has_plain_labels_and_remembers_no_input(admin_client: Client, message: Message) -> None:
    page = admin_client.get(f"/admin/core/message/{message.pk}/change/").content.decode()
    assert re.search(r"<label[^>]*>Reason for access</label>", page)
    (details,) = re.findall(r'<input[^>]*name="details"[^>]*>', page)
    for attribute in ('autocomplete="off"', 'class="vTextField"', 'maxlength="200"'):
        assert attribute in details


@pytest.mark.parametrize(
    ("form", "reason"),
    [({}, None), ({"details": "ticket"}, [None, "ticket"]), (REASON, [None, RECORDED_REASON])],
    ids=["none", "details", "both"],
)
def test_reason_can_be_made_optional(
    admin_client: Client, message: Message, settings: Settings, form: dict[str, str], reason: Any
) -> None:
    settings.REVEAL_REASON_REQUIRED = False
    for url in urls(message):
        assert CANARY in admin_client.post(url, form).content.decode()
    assert recorded() == [reason] * 4
    assert NOTHING in admin_client.post(urls(message)[0], {"reason": "other"}).content.decode()


def test_form_says_that_the_access_is_recorded(admin_client: Client, message: Message) -> None:
    for url in urls(message):
        page = admin_client.get(url, follow=True).content.decode()  # GET leads to the page of the row
        assert "This access is recorded in the audit trail, with the reason." in page
        assert "Do not enter names or health data of patients." in page


def test_code_is_asked_for_before_the_reason(admin_client: Client, message: Message, settings: Settings) -> None:
    """Otherwise the step-up would lose the reason. It leads back to the page, with the filters of its list."""
    page = f"/admin/core/message/{message.pk}/change/"
    query = "?_changelist_filters=role__exact%3Duser"
    verified = admin_client.session
    settings.ADMIN_MFA = "required"
    verified["second_factor_at"] = 1  # long ago
    verified.save()
    text = admin_client.get(page + query).content.decode()
    assert 'name="reason"' not in text
    assert f'href="/admin/second-factor/verify/?{urlencode({"next": page + query})}"' in text
