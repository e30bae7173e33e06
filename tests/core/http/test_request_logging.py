import pytest
from django.test import Client

from core.models import User

pytestmark = pytest.mark.django_db


def logged_user_id(caplog: pytest.LogCaptureFixture) -> object:
    (record,) = [record for record in caplog.records if record.name == "voiceassist.request"]
    return record.msg["user_id"]  # type: ignore[index]  # structlog logs a dictionary


def test_logs_the_user_of_the_request(admin_client: Client, admin_user: User, caplog: pytest.LogCaptureFixture) -> None:
    assert admin_client.get("/admin/").status_code == 200
    assert logged_user_id(caplog) == str(admin_user.pk)


def test_does_not_load_the_user_for_the_log(admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    assert admin_client.get("/").status_code == 200
    assert logged_user_id(caplog) is None
