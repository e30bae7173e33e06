"""`dumpdata` and `loaddata` copy every row into a fresh database, and the audit trail stays protected."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import models
from django.test import Client
from django.utils import timezone

from core.conversations import append_message, end_session
from core.models import Authenticator, Backup, Export, ExportChunk, Job, RecoveryCodes, Session, User
from core.models.second_factor import encrypt, new_secret
from tests.support import databases
from tests.support.databases import migrated_database
from tests.support.dependency_servers import as_owner
from tests.support.plugin import Servers

ROOT = Path(__file__).resolve().parents[2]
DUMP = ("--natural-foreign", "-e", "contenttypes", "-e", "auth.permission")
DELETE_GROUPS = "from django.contrib.auth.models import Group; Group.objects.all().delete()"
PASSWORD = "correct horse battery"


@pytest.fixture
def rows() -> None:
    """Add a row to every table."""
    user = User.objects.create_user("ann@example.org", PASSWORD, full_name="Ann Lee", is_staff=True)
    Group.objects.all().delete()  # those that `migrate` has added, unless an earlier test has emptied the table
    group = Group.objects.create(name="reviewers")
    group.permissions.add(Permission.objects.get(codename="view_phi"))
    user.groups.add(group)
    user.user_permissions.add(Permission.objects.get(codename="delete_message"))
    session = Session.objects.create(user=user, title="Patient ü", context={"1": [1.5, None, {"e": 1e300}]})
    append_message(session.pk, role="user", content="a\r\n\u2028😷", client_message_id="1", metadata={"x": 0.1})
    append_message(session.pk, role="tool", tool_results=[None], tokens=5, contains_phi=False)
    end_session(session.pk)
    client = Client()
    for password in ("wrong", PASSWORD):
        client.post("/admin/login/", {"username": "ann@example.org", "password": password})
    AccessAttempt.objects.create(username="hash", ip_address="192.0.2.7", failures_since_start=1)
    Authenticator.new(user, encrypt(new_secret(), user.pk)).save()
    RecoveryCodes.issue(user)
    now = timezone.now()
    Backup.objects.create(kind="base", name="x", started_at=now, finished_at=now, size=1, product_version="0.1.0")
    Job.objects.create(task="core.tasks.clear_exports", address="192.0.2.7", reason="ü")
    export = Export.objects.create(user_id=user.pk, recipient="age1")
    ExportChunk.objects.create(export=export, number=0, data=bytes(range(256)))
    content_type = ContentType.objects.get_for_model(User)
    LogEntry.objects.create(user=user, content_type=content_type, object_repr="x", action_flag=1)


@pytest.fixture
def fresh_database(servers: Servers) -> Iterator[str]:
    """Create a migrated database without users, and return its owner's URL."""
    yield as_owner(migrated_database(servers.postgres, "loaded"))
    servers.postgres.execute("DROP DATABASE loaded WITH (FORCE)")


def manage(database: str, *arguments: str) -> str:
    done = databases.manage(*arguments, url=database)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_model(dump: str) -> dict[str, list[Any]]:
    """Group the objects of a dump by their models, with the milliseconds of every time.

    A dump cuts the microseconds off: 12:00:00.000499 becomes `12:00:00.000Z`, and after the load `12:00:00Z`.
    """
    objects: dict[str, list[Any]] = {}
    for item in json.loads(re.sub(r'(T\d\d:\d\d:\d\d)Z"', r'\1.000Z"', dump)):
        objects.setdefault(item["model"], []).append(item)
    return {model: sorted(items, key=lambda item: str(item["pk"])) for model, items in objects.items()}


@pytest.mark.django_db(transaction=True)
def test_dump_of_every_table_loads_into_a_fresh_database(rows: None, fresh_database: str, tmp_path: Path) -> None:
    output = StringIO()
    call_command("dumpdata", *DUMP, stdout=output)
    path = tmp_path / "dump.json"
    path.write_text(output.getvalue())
    before = by_model(output.getvalue())
    excluded = {"contenttypes.contenttype", "auth.permission"}
    tables = [model for model in apps.get_models() if not model._meta.proxy]
    stored = {model._meta.label_lower for model in tables if model._default_manager.exists()}
    assert set(before) == stored - excluded
    assert stored >= {model._meta.label_lower for model in tables if is_used(model)}

    manage(fresh_database, "shell", "--verbosity=0", "-c", DELETE_GROUPS)
    manage(fresh_database, "loaddata", "--verbosity=0", str(path))
    after = by_model(manage(fresh_database, "dumpdata", *DUMP))

    events, new_events = before.pop("core.auditevent"), after.pop("core.auditevent")
    assert after == before
    keys = {event["pk"] for event in events}
    assert [event for event in new_events if event["pk"] in keys] == events
    # The load created rows, and the triggers of the new database record that.
    own = [event["fields"] for event in new_events if event["pk"] not in keys]
    own = [event for event in own if event["action"] != "delete" and event["trace_id"] != "migration-core.0017"]
    assert {(event["action"], event["actor_id"]) for event in own} == {("create", None)}
    by_migrate = {"auth_permission", "django_content_type"}
    assert Counter(event["table"] for event in own if event["table"] not in by_migrate) == {
        "users": 1, "users_groups": 1, "users_user_permissions": 1, "sessions": 1,
        "auth_group": 1, "auth_group_permissions": 1, "otp_totp_totpdevice": 1, "recovery_codes": 1,
        "jobs": 1, "exports": 1,
    }  # fmt: skip

    with psycopg.connect(fresh_database, autocommit=True) as connection:
        for statement in ("UPDATE audit_events SET actor_email = ''", "DELETE FROM audit_events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        # The sequences continue after the loaded keys.
        connection.execute("INSERT INTO auth_group (name) VALUES ('next')")


def is_used(model: type[models.Model]) -> bool:
    apps_used = {"core", "auth", "admin", "sessions", "contenttypes", "otp_totp"}
    return model._meta.app_label in apps_used or model is AccessAttempt
