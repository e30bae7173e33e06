"""The audit trail: events for every kind of change, the actor, immutability, and search in the admin."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import RFC_4122, uuid4

import pytest
from django.apps import apps
from django.contrib.auth import logout
from django.contrib.auth.models import AnonymousUser, Group, Permission
from django.core.management import call_command
from django.db import DatabaseError, connection, models, transaction
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from core import phi
from core.audit import audit_context, record
from core.audit_policy import AUDITED
from core.conversations import append_message
from core.deletion import delete_user
from core.models import AuditEvent, Message, Session, User
from tests.support.reveal import REASON

pytestmark = pytest.mark.django_db

SECURITY = Path(__file__).resolve().parents[2] / "docs" / "SECURITY_COMPLIANCE.md"
CANARY = "canary-of-a-patient"
PASSWORD = "correct horse battery"


@pytest.fixture
def session() -> Session:
    user = User.objects.create_user("ann@example.org", PASSWORD, full_name="Ann Lee", is_staff=True)
    return Session.objects.create(user=user, title=CANARY, context={"patient": CANARY})


@pytest.fixture
def message(session: Session) -> Message:
    return append_message(session.pk, role="user", content=CANARY, client_message_id="c", metadata={"x": CANARY})


def latest(**conditions: Any) -> AuditEvent:
    return AuditEvent.objects.filter(**conditions).latest("created_at", "id")


def sql(statement: str, *parameters: Any) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, parameters)


# Recorded events


def test_records_created_row(session: Session) -> None:
    event = latest(object_id=str(session.pk))
    assert (event.action, event.table) == ("create", "sessions")
    assert event.changes["mode"] == [None, "text"]
    assert event.changes["user_id"] == [None, str(session.user_id)]
    assert event.changes["title"] == [None, phi.MASK]
    assert "ended_at" not in event.changes  # it was NULL before and after
    assert latest(object_id=str(session.user_id)).changes["email"] == [None, "ann@example.org"]


@pytest.mark.parametrize("method", ["save", "update", "sql"])
def test_records_changed_row_by_any_method(session: Session, method: str) -> None:
    if method == "save":
        session.title, session.mode = "another", "voice"
        session.save()
    elif method == "update":
        Session.objects.update(title="another", mode="voice")
    else:
        sql("UPDATE sessions SET title = 'another', mode = 'voice'")
    event = latest(table="sessions")
    assert (event.action, event.object_id) == ("change", str(session.pk))
    assert event.changes == {"mode": ["text", "voice"], "title": [phi.MASK, phi.MASK]}


@pytest.mark.parametrize("method", ["save", "update", "sql"])
def test_records_changed_message(message: Message, method: str) -> None:
    if method == "save":
        message.content = "another"
        message.save()
    elif method == "update":
        Message.objects.update(content="another")
    else:
        sql("UPDATE messages SET content = 'another'")
    assert latest(table="messages").changes == {"content": [phi.MASK, phi.MASK]}


def test_records_deleted_row(message: Message) -> None:
    sql("DELETE FROM messages")
    event = latest(table="messages")
    assert (event.action, event.object_id) == ("delete", str(message.pk))
    assert event.changes["role"] == ["user", None]
    assert event.changes["content"] == [phi.MASK, None]


def test_ignores_counters_logins_and_unchanged_rows(message: Message) -> None:
    before = AuditEvent.objects.count()
    append_message(message.session_id, role="user")
    message.session.user.save()
    User.objects.update(last_login="2026-01-01T00:00:00Z")
    assert AuditEvent.objects.count() == before


def test_records_password_change_without_the_hash(session: Session) -> None:
    session.user.set_password("another long password")
    session.user.save()
    assert latest(table="users").changes == {"password": [phi.MASK, phi.MASK]}


def test_records_permission_changes(session: Session) -> None:
    permission = Permission.objects.get(codename="view_phi")
    session.user.user_permissions.add(permission)
    assert latest(table="users_user_permissions").changes["permission_id"] == [None, permission.pk]
    assert latest(table="users_user_permissions").object_id == str(session.user_id)
    group = Group.objects.create(name="reviewers")
    group.permissions.add(permission)
    assert latest(table="auth_group_permissions").object_id == str(group.pk)
    session.user.groups.add(group)
    session.user.groups.clear()
    removed = latest(table="users_groups")
    assert (removed.action, removed.changes["group_id"]) == ("delete", [group.pk, None])
    User.objects.update(is_superuser=True)
    assert latest(table="users").changes == {"is_superuser": [False, True]}


def test_each_permission_that_is_taken_away_has_an_event(session: Session) -> None:
    permissions = list(Permission.objects.filter(codename__in=("view_phi", "view_user")))
    groups = [Group.objects.create(name=name) for name in ("reviewers", "writers")]
    user, group = session.user, groups[0]
    user.user_permissions.set(permissions)
    user.groups.set(groups)
    group.permissions.set(permissions)
    changes: dict[str, Callable[[], object]] = {
        "users_user_permissions": user.user_permissions.clear,
        "users_groups": lambda: user.groups.set([]),
        "auth_group_permissions": lambda: group.permissions.remove(*permissions),
    }
    for table, change in changes.items():
        change()
        removed = AuditEvent.objects.filter(table=table, action="delete")
        column = "group_id" if table == "users_groups" else "permission_id"
        expected = {row.pk for row in (groups if table == "users_groups" else permissions)}
        assert {event.changes[column][0] for event in removed} == expected
        owner = group if table == "auth_group_permissions" else user
        assert [event.object_id for event in removed] == [str(owner.pk)] * 2
    group.name = "readers"
    group.save()
    assert latest(table="auth_group").changes == {"name": ["reviewers", "readers"]}
    group.delete()
    event = latest(table="auth_group")
    assert (event.action, event.object_id, event.changes["name"]) == (
        "delete",
        str(event.changes["id"][0]),
        ["readers", None],
    )


def test_deleting_a_user_keeps_the_events(message: Message) -> None:
    user = message.session.user
    key = str(user.pk)
    delete_user(user)
    assert latest(object_id=key).action == "delete"
    assert latest(object_id=key).changes["email"] == ["ann@example.org", None]
    assert latest(table="messages").action == latest(table="sessions").action == "delete"


def test_masks_phi_and_secrets(message: Message) -> None:
    for model in (Message, Session, User):
        model._default_manager.update(**{name: _new_value(model, name) for name in phi.columns(model, "PHI", "SECRET")})
    message.session.user.delete()
    trail = json.dumps(list(AuditEvent.objects.values()), default=str)
    assert CANARY not in trail
    assert "argon2" not in trail


def test_shows_that_a_masked_value_was_set_or_removed(message: Message) -> None:
    for value, changes in (({"dose": CANARY}, [None, phi.MASK]), (None, [phi.MASK, None])):
        message.tool_calls = value
        message.save()
        assert latest(table="messages").changes == {"tool_calls": changes}


def test_events_of_one_transaction_have_keys_and_times_in_their_order(session: Session) -> None:
    for mode in ("voice", "text", "case_workspace"):
        Session.objects.update(mode=mode)
        record(AuditEvent.Action.LOGIN, None, user=session.user, target=session.user)
    events = list(AuditEvent.objects.order_by("created_at", "id"))[-6:]
    assert [event.action for event in events] == ["change", "login"] * 3
    assert len({event.created_at for event in events}) == 6
    for event in events:
        assert (event.id.version, event.id.variant) == (7, RFC_4122)
        seconds = (event.id.int >> 80) / 1000 - event.created_at.timestamp()
        # The trigger derives the key from the time. `record` reads the clock twice.
        assert abs(seconds) < (0.002 if event.action == "change" else 5)
    assert len({event.id.int & (1 << 62) - 1 for event in events}) == 6  # the rest is random


def _new_value(model: type[models.Model], name: str) -> Any:
    field = model._meta.get_field(name)
    return {"other": CANARY} if isinstance(field, models.JSONField) else f"argon2 {CANARY}"


# The database's triggers agree with the models' declarations


def triggers() -> dict[str, list[str]]:
    """Return the arguments of each table's triggers: the key column, the shown and the ignored columns."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'audit'")
        return {table: re.findall(r"'([^']*)'", definition)[-3:] for table, definition in cursor.fetchall()}


def test_every_table_about_users_is_audited() -> None:
    tables = {model._meta.db_table for model in apps.get_app_config("core").get_models(include_auto_created=True)}
    assert set(triggers()) >= tables - {"audit_events", "backups", "export_chunks"}


def test_triggers_have_the_arguments_of_the_policy() -> None:
    policy = {table: [audited.row_id, audited.shown, audited.ignored] for table, audited in AUDITED.items()}
    assert triggers() == policy


@pytest.mark.parametrize("model", [User, Session, Message])
def test_triggers_show_only_columns_that_the_models_declare_as_not_phi(model: type[models.Model]) -> None:
    _, shown, ignored = triggers()[model._meta.db_table]
    declared = set(phi.columns(model, "NON_SENSITIVE", "PERSONAL"))
    assert set(shown.split()) == declared - set(ignored.split())
    assert not set(ignored.split()) & set(phi.columns(model, "PHI", "SECRET"))


# Immutability, also for the owner and superusers. tests/security/test_roles.py attacks as the application's role.


@pytest.mark.database_superuser
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor_email = 'eve@example.org'",
        "UPDATE audit_events SET actor_email = 'eve@example.org' WHERE id IN (SELECT id FROM audit_events LIMIT 1)",
        "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (id) DO UPDATE SET id = gen_random_uuid()",
        "SELECT id FROM audit_events FOR UPDATE; DELETE FROM audit_events",
        "DELETE FROM audit_events",
        "SET LOCAL session_replication_role = replica; DELETE FROM audit_events",
        "WITH deleted AS (DELETE FROM audit_events RETURNING 1) SELECT * FROM deleted",
        "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (id) DO UPDATE SET actor_email = 'eve'",
        "MERGE INTO audit_events USING users ON true WHEN MATCHED THEN DELETE",
    ],
)
def test_sql_cannot_change_events(session: Session, statement: str) -> None:
    before = list(AuditEvent.objects.values())
    with pytest.raises(DatabaseError, match="Only INSERT is allowed on audit_events"):
        sql(statement)
    assert list(AuditEvent.objects.values()) == before


@pytest.mark.database_superuser
def test_statement_that_matches_no_event_is_allowed() -> None:
    """`loaddata` needs this, because Django tries to update each row before it inserts it."""
    for statement in ("UPDATE audit_events SET actor_email = 'eve'", "DELETE FROM audit_events"):
        sql(f"{statement} WHERE false")


@pytest.mark.database_superuser
def test_temporary_table_cannot_capture_events(session: Session) -> None:
    before = AuditEvent.objects.count()
    sql("CREATE TEMPORARY TABLE audit_events (LIKE public.audit_events) ON COMMIT DROP")
    try:
        sql("UPDATE sessions SET mode = 'voice'")
    finally:
        sql("DROP TABLE pg_temp.audit_events")
    assert AuditEvent.objects.count() == before + 1


def test_orm_cannot_change_events(session: Session) -> None:
    event = AuditEvent.objects.first()
    assert event
    event.actor_email = "eve@example.org"
    for change in (
        event.save,
        event.delete,
        AuditEvent.objects.all().delete,
        lambda: AuditEvent.objects.update(table=""),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


# The actor


def test_records_actor_address_and_trace_id(admin_client: Client, admin_user: User, session: Session) -> None:
    form = {"email": "ann@example.org", "full_name": "Ann Moe", "is_active": "on", "is_staff": "on"}
    response = admin_client.post(f"/admin/core/user/{session.user_id}/change/", form, REMOTE_ADDR="192.0.2.7")
    assert response.status_code == 302
    event = latest(table="users", object_id=str(session.user_id))
    assert event.changes == {"full_name": ["Ann Lee", "Ann Moe"]}
    assert (event.actor_id, event.actor_email) == (admin_user.pk, admin_user.email)
    assert event.address == "192.0.2.7"
    assert event.trace_id == response["X-Request-ID"]


def test_actor_is_read_from_the_transactions_setting(rf: RequestFactory, session: Session) -> None:
    request = rf.post("/")
    request.user = session.user
    with audit_context(request):
        Session.objects.update(mode="voice")
    assert latest(table="sessions").actor_id == session.user_id
    # The setting lasts until the end of the test's own transaction, so clear it.
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('voiceassist.audit', '', true)")
    Session.objects.update(mode="text")
    assert latest(table="sessions").actor_id is None


@pytest.mark.django_db(transaction=True)
def test_next_transaction_of_the_connection_has_no_actor(rf: RequestFactory, session: Session) -> None:
    request = rf.post("/")
    request.user = session.user
    with audit_context(request):
        Session.objects.update(mode="voice")
    Session.objects.update(mode="text")
    modes = {event.changes["mode"][1]: event.actor_id for event in AuditEvent.objects.filter(action="change")}
    assert modes == {"voice": session.user_id, "text": None}


def test_records_login_and_logout(client: Client, session: Session) -> None:
    form = {"username": "ann@example.org", "password": PASSWORD}
    client.post("/admin/login/", form, REMOTE_ADDR="192.0.2.7")
    client.post("/admin/logout/", REMOTE_ADDR="192.0.2.7")
    for action in ("login", "logout"):
        event = latest(action=action)
        assert (event.actor_id, event.object_id) == (session.user_id, str(session.user_id))
        assert event.address == "192.0.2.7"
        assert event.trace_id


def test_anonymous_logout_leaves_no_event(client: Client, rf: RequestFactory) -> None:
    """Otherwise anybody could make the trail grow for ever."""
    before = AuditEvent.objects.count()
    assert client.post("/admin/logout/").status_code == 302
    request = rf.post("/")
    request.session, request.user = client.session, AnonymousUser()
    logout(request)
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize("name", ["ann@example.org", "nobody@example.org", "my-password-typed-into-the-wrong-field"])
def test_failed_login_records_the_user_but_no_input(client: Client, session: Session, name: str) -> None:
    client.post("/admin/login/", {"username": name, "password": "wrong-canary"}, REMOTE_ADDR="192.0.2.7")
    event = latest(action="login_failed")
    assert event.object_id == (str(session.user_id) if name.startswith("ann@") else "")
    assert (event.actor_id, event.actor_email, event.address) == (None, "", "192.0.2.7")
    for submitted in (name, "wrong-canary"):
        assert submitted not in json.dumps(list(AuditEvent.objects.filter(pk=event.pk).values()), default=str)


# Disclosures


def test_records_whose_data_a_disclosure_shows(admin_client: Client, message: Message) -> None:
    session, user = message.session, message.session.user
    for row, session_id in ((message, session.pk), (session, session.pk), (user, None)):
        for action in AuditEvent.DISCLOSURES:
            record(action, None, user=None, target=type(row)(pk=row.pk), changes={"reason": [None, "x"]})
            event = latest(action=action)
            assert (event.subject_id, event.session_id) == (user.pk, session_id)
            # The digests of checkpoints cover `changes` in every release.
            assert event.changes.pop("subject") == [None, str(user.pk)]
            assert event.changes.pop("session", [None, "None"]) == [None, str(session_id)]
            assert event.changes == {"reason": [None, "x"]}
    gone = Message(pk=uuid4())
    record(AuditEvent.Action.REVEAL_REFUSED, None, user=None, target=gone)
    event = latest(object_id=str(gone.pk))
    assert (event.subject_id, event.session_id, event.changes) == (None, None, {})
    record(AuditEvent.Action.LOGIN, None, user=user, target=user)
    assert latest(action="login").subject_id is None


# Lists and search in the admin


def test_list_names_who_what_and_changes(admin_client: Client, admin_user: User, message: Message) -> None:
    session, user = message.session, message.session.user
    start = f"{session.created_at:%Y-%m-%d %H:%M}"
    with audit_context(RequestFactory().post("/"), user=admin_user):
        user.user_permissions.add(Permission.objects.get(codename="view_phi"))
        Session.objects.update(mode="voice", title="another")
        Message.objects.update(content="another")
    text = admin_client.get("/admin/core/auditevent/").content.decode()
    for name, target in (
        (admin_user.email, f"/admin/core/user/{admin_user.pk}/change/"),
        ("ann@example.org", f"/admin/core/user/{user.pk}/change/"),
        (f"ann@example.org, {start} UTC", f"/admin/core/session/{session.pk}/change/"),
        (f"ann@example.org, {message.created_at:%Y-%m-%d %H:%M:%S} UTC", f"/admin/core/message/{message.pk}/change/"),
    ):
        assert f'<a href="{target}">{name}</a>' in text
    for expected in ("user permissions <a", "mode, title</td>", "content</td>", "<time datetime="):
        assert expected in text
    assert CANARY not in text
    delete_user(user)
    text = admin_client.get("/admin/core/auditevent/").content.decode()
    key = str(session.pk)
    assert f'session <span class="id" title="{key}" data-copy="{key}">…{key[-8:]}</span>' in text
    assert f"/admin/core/session/{session.pk}/change/" not in text


def test_list_reads_each_table_once(admin_client: Client, admin_user: User) -> None:
    def count_queries(sessions: int) -> int:
        user = User.objects.create_user(f"{sessions}@example.org")
        with audit_context(RequestFactory().post("/"), user=admin_user):
            for _ in range(sessions):
                append_message(Session.objects.create(user=user).pk, role="user")
            Message.objects.update(tokens=1)
        with CaptureQueriesContext(connection) as queries:
            admin_client.get("/admin/core/auditevent/")
        # Not what runs once in a while, such as saving the web session.
        return len([query for query in queries if re.search('FROM "(users|sessions|messages|auth_)', query["sql"])])

    count_queries(1)  # fills the caches
    assert count_queries(2) == count_queries(20)


def test_list_links_only_what_the_reader_may_open(client: Client, message: Message) -> None:
    staff = User.objects.create_user("auditor@example.org", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_auditevent"))
    client.force_login(staff)
    text = client.get("/admin/core/auditevent/").content.decode()
    assert "auditor@example.org" in text
    assert not re.findall(r'href="/admin/core/(?:user|session|message)/', text)


def test_hostile_changes_are_listed(admin_client: Client) -> None:
    """The application's role may add events with any content."""
    for number, changes in enumerate(([], 5, "x", {"k" * 5000: 1}, {f"c{number}": 1 for number in range(999)})):
        AuditEvent.objects.create(action="change", table="other", object_id=f"o{number}", changes=changes)
    AuditEvent.objects.create(action="change", table="users", object_id="no uuid")
    AuditEvent.objects.create(action="change", table="auth_group", object_id="9" * 30)
    response = admin_client.get("/admin/core/auditevent/")
    text = response.content.decode()
    assert response.status_code == 200
    assert "k" * 64 not in text
    assert "c0, c1, c10, c100, c101, …" in text
    assert 'user <span class="id" title="no uuid" data-copy="no uuid">no uuid</span>' in text


def test_lists_who_saw_the_data_of_a_user(admin_client: Client, message: Message) -> None:
    session, user = message.session, message.session.user
    for row in (message, session):
        admin_client.post(f"/admin/core/{row._meta.model_name}/{row.pk}/reveal/", REASON)
    Message.objects.create(
        session=Session.objects.create(user=User.objects.create_user("bob@example.org")), role="user"
    )
    link = f"/admin/core/auditevent/?subject_id__exact={user.pk}"
    assert (
        f'<a href="{link}">Who viewed this user'
        in admin_client.get(f"/admin/core/user/{user.pk}/change/").content.decode()
    )
    disclosures = [("reveal", "sessions"), ("reveal", "messages")]
    assert listed_events(admin_client, subject_id__exact=str(user.pk)) == disclosures
    assert listed_events(admin_client, session_id__exact=str(session.pk)) == disclosures
    for term in (str(user.pk), "ANN@example.org", "lee"):
        text = admin_client.get("/admin/core/auditevent/", {"q": term}, follow=True).content.decode()
        assert f'Who viewed the data of <a href="{link}">ann@example.org</a>.' in text, term
    event = latest(action="reveal", table="messages")
    page = admin_client.get(f"/admin/core/auditevent/{event.pk}/change/").content.decode()
    for target in (link, f"?session_id__exact={session.pk}", f"/admin/core/user/{user.pk}/change/"):
        assert f'{target}"' in page
    key = str(user.pk)
    delete_user(user)  # its event leads to them
    deletion = latest(action="delete", table="users")
    assert link in admin_client.get(f"/admin/core/auditevent/{deletion.pk}/change/").content.decode()
    assert listed_events(admin_client, subject_id__exact=key) == disclosures


def listed_events(client: Client, **query: Any) -> list[tuple[str, str]]:
    rows = client.get("/admin/core/auditevent/", query, follow=True).context["cl"].result_list
    return [(event.action, event.table) for event in rows]


def test_search_by_each_key(admin_client: Client, admin_user: User, session: Session) -> None:
    form = {"email": "ann@example.org", "full_name": "Ann Moe", "is_active": "on", "is_staff": "on"}
    page = f"/admin/core/user/{session.user_id}/change/"
    trace_id = admin_client.post(page, form, REMOTE_ADDR="2001:db8::7")["X-Request-ID"]
    event = latest(table="users", action="change")
    for term in (trace_id, "2001:DB8::7", "2001:db8:0::7", admin_user.email.upper(), str(event.pk)):
        assert ("change", "users") in listed_events(admin_client, q=term), term
    assert ("change", "users") in listed_events(admin_client, q=str(session.user_id))
    history = admin_client.get(f"/admin/core/user/{session.user_id}/history/", follow=True)
    assert str(event.pk) in history.content.decode()
    assert listed_events(admin_client, q="nobody@example.org") == []
    assert listed_events(admin_client, action__exact="change", q=trace_id) == [("change", "users")]


def test_finds_events_of_rows_whose_key_is_no_uuid(admin_client: Client) -> None:
    group = Group.objects.create(pk=4_711_000, name="reviewers")  # no row of another table has this key
    key = str(group.pk)
    group.permissions.add(Permission.objects.get(codename="view_phi"))
    expected = [("create", "auth_group_permissions"), ("create", "auth_group")]
    assert listed_events(admin_client, q=key) == expected
    history = admin_client.get(f"/admin/auth/group/{key}/history/", follow=True)
    assert [(event.action, event.table) for event in history.context["cl"].result_list] == expected
    event = latest(table="auth_group")
    page = admin_client.get(f"/admin/core/auditevent/{event.pk}/change/").content.decode()
    assert f'?object_id__exact={key}"' in page


def test_search_finds_events_of_a_deleted_user(admin_client: Client, client: Client, session: Session) -> None:
    key = str(session.user_id)
    client.post("/admin/login/", {"username": "ann@example.org", "password": PASSWORD})
    delete_user(session.user)
    assert ("login", "users") in listed_events(admin_client, q="ann@example.org")
    assert ("login", "users") in listed_events(admin_client, actor_id__exact=key)
    assert {("create", "users"), ("delete", "users")} <= set(listed_events(admin_client, object_id__exact=key))


def test_event_page_shows_changes_and_links(admin_client: Client, session: Session) -> None:
    permission = Permission.objects.get(codename="view_phi")
    session.user.user_permissions.add(permission)
    event = latest(table="users_user_permissions")
    page = admin_client.get(f"/admin/core/auditevent/{event.pk}/change/").content.decode()
    assert "Can reveal PHI" in page  # the name, in addition to the id
    assert f"?object_id__exact={session.user_id}" in page
    event = latest(table="sessions")
    page = admin_client.get(f"/admin/core/auditevent/{event.pk}/change/").content.decode()
    assert f'href="/admin/core/session/{session.pk}/change/"' in page
    assert f'<span aria-hidden="true">{phi.MASK}</span><span class="visually-hidden">hidden</span>' in page
    assert CANARY not in page


def test_admin_cannot_add_change_or_delete_events(admin_client: Client, session: Session) -> None:
    key = AuditEvent.objects.all()[0].pk
    before = list(AuditEvent.objects.values())
    for page in ("add/", f"{key}/change/", f"{key}/delete/"):
        assert admin_client.post(f"/admin/core/auditevent/{page}", {"post": "yes"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": [str(key)], "post": "yes"}
    admin_client.post("/admin/core/auditevent/", form)
    assert list(AuditEvent.objects.values()) == before


def test_events_of_commands_have_no_actor_and_are_listed(admin_client: Client) -> None:
    call_command("createsuperuser", email="cli@example.org", interactive=False)
    user = User.objects.get(email="cli@example.org")
    event = latest(object_id=str(user.pk))
    assert (event.action, event.actor_id, event.actor_email, event.address) == ("create", None, "", None)
    assert event.changes["is_superuser"] == [None, True]
    assert ("create", "users") in listed_events(admin_client, q=str(user.pk))
    assert event.trace_id == ""
    assert 'data-copy=""' not in admin_client.get("/admin/core/auditevent/").content.decode()  # nothing to copy
