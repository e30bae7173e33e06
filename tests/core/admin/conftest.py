"""A conversation full of PHI, and the admin pages that show it."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from core.models import Message, Session, User

CANARY = "canary-of-a-patient"  # must never appear where PHI is masked
PHI = {
    "content": CANARY,
    "audio_url": f"https://audio/{CANARY}",
    "tool_calls": [{"name": CANARY}],
    "tool_results": {"result": CANARY},
    "metadata": {"device": CANARY},
}


@pytest.fixture
def message() -> Message:
    user = User.objects.create_user("ann@example.org", full_name="Ann Lee", specialty="cardiology")
    session = Session.objects.create(user=user, title=CANARY, context={"patient": CANARY})
    return Message.objects.create(session=session, role="user", client_message_id="client-1", **PHI)


@pytest.fixture
def pages(message: Message) -> dict[str, str]:
    session, user = message.session, message.session.user
    return {
        "users": "/admin/core/user/",
        "user": f"/admin/core/user/{user.pk}/change/",
        "sessions": "/admin/core/session/",
        "session": f"/admin/core/session/{session.pk}/change/",
        "messages": "/admin/core/message/",
        "message": f"/admin/core/message/{message.pk}/change/",
    }


@pytest.fixture
def staff_client() -> Callable[..., Client]:
    """Return a function that creates a staff user with these permissions and returns a client logged in as them."""

    def create(*permissions: str) -> Client:
        user = User.objects.create_user("staff@example.org", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return create
