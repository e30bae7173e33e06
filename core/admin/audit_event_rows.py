"""Name the users and rows that audit events refer to, with a few queries for all events of a page.

A name is a link if the reader may open the page. A row that no longer exists has only its id.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group
from django.db import connection
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.admin.display import message_name, session_name, short_id
from core.admin.job_display import describe_task
from core.audit_policy import AUDITED
from core.models import AuditEvent, Job, Message, Session, User

MAX_CHANGES = 5  # names of columns in a list
# Not changes of the row: its identity, and what the pages show as links.
_NOT_CHANGED = ("id", "created_at", "subject", "session")
_TABLES = {
    "users_groups": "groups of a user",
    "users_user_permissions": "user permissions",
    "auth_group_permissions": "group permissions",
    "otp_totp_totpdevice": "authenticator app",
    "audit_events": "audit events",
}
_KEYS: dict[str, type[Model]] = {"user_id": User, "group_id": Group}  # columns with the key of another row
# One query for all events, and not the values, which may be long. A key is never longer than the name of a column, but
# everybody who may add events could add a longer one.
_CHANGED = """
    SELECT id, ARRAY(
        SELECT left(key, 63)
        FROM jsonb_object_keys(CASE jsonb_typeof(changes) WHEN 'object' THEN changes ELSE '{}' END) AS key
        WHERE key <> ALL(%s) ORDER BY key LIMIT %s
    ) FROM audit_events WHERE id = ANY(%s) AND action NOT IN ('create', 'delete')
"""


class Named(NamedTuple):
    """How to name a row of a model, and what that reads."""

    columns: tuple[str, ...]
    related: tuple[str, ...]
    name: Callable[[Any], str]


_NAMED: dict[type[Model], Named] = {
    User: Named(("email",), (), lambda user: str(user.email)),
    Session: Named(("created_at", "user__email"), ("user",), session_name),
    Message: Named(("created_at", "session__user__email"), ("session__user",), message_name),
    Group: Named(("name",), (), lambda group: str(group.name)),
    Job: Named(("task",), (), lambda job: describe_task(job.task)),
}


def table_name(table: str) -> str:
    """Return the plain name of what a table contains, in the singular."""
    models = {model._meta.db_table: str(model._meta.verbose_name) for model in apps.get_models()}
    return _TABLES.get(table) or models.get(table, table)


def object_model(table: str) -> type[Model] | None:
    """Return the model whose key is the `object_id` of the events of a table, None if it has no page."""
    if table in AUDITED and AUDITED[table].row_id in _KEYS:
        return _KEYS[AUDITED[table].row_id]
    return next((model for model in _NAMED if model._meta.db_table == table), None)


def describe(request: HttpRequest, events: Iterable[AuditEvent]) -> None:
    """Set on each event `actor`, `object`, `subject` and `conversation` as HTML, and `changed` as text."""
    events = list(events)
    references = [(event, _references(event)) for event in events]
    keys: dict[type[Model], set[str]] = {}
    for _, named in references:
        for model, key in named.values():
            if model and key:
                keys.setdefault(model, set()).add(key)
    links = {model: _links(request, model, wanted) for model, wanted in keys.items()}
    changed = _changed_columns(events)
    for event, named in references:
        for attribute, (model, key) in named.items():
            known = links.get(model, {}).get(key) if model else None
            setattr(event, attribute, known or (short_id(key) if key else "–"))
        if event.actor_email and links.get(User, {}).get(str(event.actor_id)) is None:
            event.actor = event.actor_email  # type: ignore[attr-defined]  # deleted, or the reader may not open the page
        event.changed = changed.get(event.pk, "")  # type: ignore[attr-defined]


def _references(event: AuditEvent) -> dict[str, tuple[type[Model] | None, str]]:
    return {
        "actor": (User, str(event.actor_id or "")),
        "object": (object_model(event.table), event.object_id),
        "subject": (User, str(event.subject_id or "")),
        "conversation": (Session, str(event.session_id or "")),
    }


def _links(request: HttpRequest, model: type[Model], keys: set[str]) -> dict[str, SafeString]:
    """Return links by key to the rows that exist, none if the reader may not open them."""
    if not admin.site.get_model_admin(model).has_view_permission(request):
        return {}
    valid = [key for key in keys if _is_key(model, key)]
    columns, related, name = _NAMED[model]
    rows = model._default_manager.filter(pk__in=valid).only(*columns)
    page = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
    return {
        str(row.pk): format_html('<a href="{}">{}</a>', reverse(page, args=[row.pk]), name(row))
        for row in (rows.select_related(*related) if related else rows)
    }


def _is_key(model: type[Model], key: str) -> bool:
    field: Any = model._meta.pk
    try:
        field.get_db_prep_value(field.to_python(key), connection)
        return len(key) < 40
    except Exception:  # noqa: BLE001
        return False


def _changed_columns(events: list[AuditEvent]) -> dict[Any, str]:
    with connection.cursor() as cursor:
        cursor.execute(_CHANGED, [list(_NOT_CHANGED), MAX_CHANGES + 1, [event.pk for event in events]])
        return {
            key: ", ".join(name.replace("_", " ") for name in names[:MAX_CHANGES])
            + (", …" if len(names) > MAX_CHANGES else "")
            for key, names in cursor.fetchall()
        }
