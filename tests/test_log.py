"""The log never holds what may be PHI, however it is broken."""

import io
import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.test import Client

from core.models import Message, Session, User
from voiceassist.log import logging_config

CANARY = "canary of a patient"


Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Read]:
    """Logs as production does, at DEBUG."""
    logging.config.dictConfig(logging_config(level="DEBUG", style="json", service=settings.SERVICE))
    stream = io.StringIO()
    (handler,) = [
        h for h in logging.getLogger().handlers if isinstance(h.formatter, structlog.stdlib.ProcessorFormatter)
    ]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.config.dictConfig(settings.LOGGING)


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
        assert any("test_log.py" in frame for frame in error_field["frames"])


def test_a_line_can_not_be_forged_by_input(lines: Read) -> None:
    logging.getLogger("app").info("first\n%s", '{"level": "critical"}')
    assert len(lines()) == 1


@pytest.mark.django_db
def test_sql_values_are_not_logged(lines: Read) -> None:
    User.objects.filter(full_name=CANARY).exists()
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
