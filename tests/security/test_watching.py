"""Attempts to reveal or export PHI leave a record, also refused ones, and a metric that raises an alert."""

from collections.abc import Iterator
from typing import Any

import pyrage
import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from prometheus_client import REGISTRY
from pytest_django import Settings

from core.auth.session_expiry import LAST_SEEN_KEY
from core.models import AuditEvent, Message, Session, User
from tests.core.clients.postgresql.connections import separate_connection
from tests.support.dependency_servers import SUPERUSER
from tests.support.plugin import Servers
from tests.support.reveal import REASON
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

PASSWORD = "correct horse battery"
CANARY = "canary-of-a-patient"


def create_staff(email: str, *permissions: str) -> User:
    user = User.objects.create_user(email, PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def message(transactional_db: None) -> Message:
    owner = User.objects.create_user("owner@example.org")
    session = Session.objects.create(user=owner, title=CANARY)
    return Message.objects.create(session=session, role="user", content=CANARY)


def reveal_url(row: Any) -> str:
    return f"/admin/core/{row._meta.model_name}/{row.pk}/reveal/"


def refusals() -> list[tuple[Any, ...]]:
    events = AuditEvent.objects.filter(action="reveal_refused").order_by("created_at")
    return list(events.values_list("actor_email", "table", "object_id"))


@pytest.fixture
def counted() -> Iterator[dict[str, int]]:
    """Yield a dictionary, and compare it at the end with how much the counters have grown, by outcome."""

    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("voiceassist_reveals_total", {"outcome": outcome}) or 0

    expected: dict[str, int] = {}
    before = {outcome: count(outcome) for outcome in ("revealed", "exported", "refused", "code_required")}
    yield expected
    assert {outcome: count(outcome) - before[outcome] for outcome in before} == {
        "revealed": 0,
        "exported": 0,
        "refused": 0,
        "code_required": 0,
        **expected,
    }


@pytest.mark.parametrize("missing", ["view_phi", "view_message"])
def test_reveal_without_a_permission_is_recorded(
    client: Client, message: Message, counted: dict[str, int], missing: str
) -> None:
    user = create_staff("viewer@example.org", *({"view_phi", "view_message"} - {missing}))
    client.force_login(user)
    response = client.post(reveal_url(message), REASON, REMOTE_ADDR="192.0.2.7")
    assert response.status_code == 403
    assert refusals() == [(user.email, "messages", str(message.pk))]
    event = AuditEvent.objects.get(action="reveal_refused")
    assert (event.actor_id, event.address, event.trace_id) == (user.pk, "192.0.2.7", response["X-Request-ID"])
    counted["refused"] = 1


def test_reveal_of_an_object_that_does_not_exist_is_recorded(
    client: Client, message: Message, counted: dict[str, int]
) -> None:
    """The id in the URL is recorded only if it is a UUID. Any other text could be PHI."""
    user = create_staff("viewer@example.org", "view_phi", "view_message")
    client.force_login(user)
    key = str(message.pk)
    message.delete()
    for part in (key, "Jane Roe, HIV", "%00"):
        assert client.post(f"/admin/core/message/{part}/reveal/", REASON).status_code == 404
    assert refusals() == [(user.email, "messages", key), (user.email, "", ""), (user.email, "", "")]
    counted["refused"] = 3


def test_reveal_after_the_login_ended_is_recorded_once(
    client: Client, message: Message, counted: dict[str, int], settings: Settings
) -> None:
    user = create_staff("viewer@example.org", "view_phi", "view_message")
    client.force_login(user)
    session = client.session
    session[LAST_SEEN_KEY] -= 15 * 60
    session.save()
    for _ in range(3):  # the later ones have no login that could end
        assert client.post(reveal_url(message), REASON)["Location"].startswith("/admin/login/")
    assert refusals() == [(user.email, "messages", str(message.pk))]
    counted["refused"] = 1


def test_reveal_by_a_user_who_is_no_longer_staff_is_recorded(
    client: Client, message: Message, counted: dict[str, int]
) -> None:
    user = create_staff("viewer@example.org", "view_phi", "view_message")
    client.force_login(user)
    User.objects.filter(pk=user.pk).update(is_staff=False)
    assert client.post(reveal_url(message), REASON).status_code == 302
    assert refusals() == [(user.email, "messages", str(message.pk))]
    counted["refused"] = 1


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "!another"}])
def test_reveal_after_the_account_was_deactivated_or_got_another_password_is_recorded(
    client: Client, message: Message, counted: dict[str, int], change: dict[str, Any]
) -> None:
    user = create_staff("viewer@example.org", "view_phi", "view_message")
    client.force_login(user)
    User.objects.filter(pk=user.pk).update(**change)
    for _ in range(2):
        assert client.post(reveal_url(message), REASON).status_code == 302
    assert refusals() == [(user.email, "messages", str(message.pk))]
    counted["refused"] = 1


def test_being_asked_for_a_code_is_recorded_and_counts_separately(
    client: Client, message: Message, counted: dict[str, int], settings: Settings
) -> None:
    """Every user is asked once an hour, so counting it as a refusal would raise the alert without a reason."""
    settings.ADMIN_MFA = "required"
    user = create_staff("viewer@example.org", "view_phi", "view_message")
    client.force_login(user)
    assert client.post(reveal_url(message), REASON)["Location"].startswith("/admin/second-factor/verify/")
    assert refusals() == [(user.email, "messages", str(message.pk))]
    counted["code_required"] = 1


def test_anonymous_clients_cannot_make_the_trail_grow(
    client: Client, message: Message, counted: dict[str, int]
) -> None:
    client.cookies["sessionid"] = "a" * 32
    before = AuditEvent.objects.count()
    for _ in range(5):
        assert client.post(reveal_url(message), REASON).status_code == 302
    assert AuditEvent.objects.count() == before


def test_reading_masked_pages_is_no_refusal(client: Client, message: Message, counted: dict[str, int]) -> None:
    client.force_login(create_staff("viewer@example.org", "view_message"))
    assert client.get(reveal_url(message)).status_code == 302
    assert client.get(f"/admin/core/message/{message.pk}/change/").status_code == 200
    assert refusals() == []


def test_reveals_are_counted(client: Client, message: Message, counted: dict[str, int]) -> None:
    client.force_login(create_staff("viewer@example.org", "view_phi", "view_message"))
    for _ in range(3):
        assert CANARY in client.post(reveal_url(message), REASON).content.decode()
    assert refusals() == []
    counted["revealed"] = 3


def test_exports_and_their_refusals_are_recorded_and_counted(
    client: Client, message: Message, counted: dict[str, int], settings: Settings
) -> None:
    """An export discloses all PHI of a user. The page without a key, or with a wrong one, is neither."""
    owner = message.session.user
    page = f"/admin/core/user/{owner.pk}/export/"
    exporter = create_staff("exporter@example.org", "view_user", "view_phi", "export_user")
    viewer = create_staff("viewer@example.org", "view_user", "view_phi")
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    client.force_login(exporter)
    assert client.get(page).status_code == 200
    assert client.post(page, {"recipient": "age1"}).status_code == 200
    assert client.post(page, {"recipient": recipient}).status_code == 302
    settings.ADMIN_MFA = "required"
    assert client.post(page, {"recipient": recipient})["Location"].startswith("/admin/second-factor/verify/")
    settings.ADMIN_MFA = "optional"
    client.force_login(viewer)
    assert client.post(page, {"recipient": recipient}).status_code == 403
    assert refusals() == [(email, "users", str(owner.pk)) for email in (exporter.email, viewer.email)]
    assert AuditEvent.objects.filter(action="export").count() == 1
    counted |= {"exported": 1, "code_required": 1, "refused": 1}


def test_nothing_is_shown_if_the_refusal_cannot_be_recorded(client: Client, message: Message) -> None:
    """The response differs from that to a recorded refusal, but reveals nothing."""
    client.force_login(create_staff("viewer@example.org", "view_message"))
    client.raise_request_exception = False
    with separate_connection(user=SUPERUSER) as owner:
        owner.execute("ALTER TABLE audit_events ADD CONSTRAINT full_disk CHECK (action <> 'reveal_refused') NOT VALID")
        try:
            response = client.post(reveal_url(message), REASON)
        finally:
            owner.execute("ALTER TABLE audit_events DROP CONSTRAINT full_disk")
    assert response.status_code == 500
    assert CANARY not in response.content.decode()


def test_every_worker_counts_into_one_metric_without_persons(servers: Servers) -> None:
    """A server as in production, attacked through its socket. Before the first reveal, the counters are 0."""
    email = "root@example.org"
    url = database_with_staff(servers.postgres, "watching", email, PASSWORD)

    def samples(app: VoiceAssistServer) -> dict[str, float]:
        lines = app.get("/metrics")[2].decode().splitlines()
        return {
            series: float(value)
            for series, value in (line.rsplit(" ", 1) for line in lines if line.startswith("voiceassist_reveals"))
        }

    revealed, exported, refused, code_required = (
        f'voiceassist_reveals_total{{outcome="{outcome}"}}'
        for outcome in ("revealed", "exported", "refused", "code_required")
    )
    with VoiceAssistServer(DATABASE_URL=url, WEB_CONCURRENCY="2") as app:
        assert samples(app) == {revealed: 0, exported: 0, refused: 0, code_required: 0}
        client = app.log_in(email, PASSWORD)
        key = "0198c000-0000-7000-8000-000000000000"
        for _ in range(8):
            client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
            assert client.post(f"/admin/core/message/{key}/reveal/", headers={"Connection": "close"}).status_code == 404
        assert samples(app) == {revealed: 0, exported: 0, refused: 8, code_required: 0}
        client.close()
