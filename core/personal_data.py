"""The data of a user as one JSON document, for the rights of access and portability (GDPR Articles 15 and 20).

    profile, groups, permissions     all columns of the account but the password
    second_factor                    when it was set up and used, without secrets
    sessions                         with their messages: everything that the user dictated or received
    account_events                   audit events about the account, without the identity of other users
    disclosures                      audit events of who saw the sessions or messages, in the same way
    activity                         audit events of what the user did, without the values of other people's rows

A user has a right to the log of accesses to their data, but in general not to the identity of the employees in it
(Court of Justice of the European Union, C-579/21), and the copy must not affect the rights of others (Article 15(4)).

Secrets are never exported, and a new column is exported if its model declares it as something else (`core.phi`).
"""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from django.db.models import BooleanField, Case, F, Func, Model, QuerySet, TextField, Value, When
from django.db.models.functions import Cast
from django.utils import timezone

from core.cursor_pagination import after_cursor, encode_cursor, ordering
from core.models import AuditEvent, Authenticator, Message, RecoveryCodes, Session, User
from core.phi import stored_fields

_PAGE_SIZE = 100  # rows that are in memory at the same time
_ACTIVITY = ("id", "created_at", "action", "table", "object_id", "address", "trace_id")
_DISCLOSURES = ("id", "created_at", "action", "table", "object_id")
_ACCOUNT_EVENTS = ("id", "created_at", "action", "table", "changes")

Part = tuple[str, int]  # a piece of the document, and how many messages it contains


def document(user: User) -> Iterator[Part]:
    """Yield the document in pieces."""
    header = {"format": "voiceassist-export", "version": 1, "exported_at": timezone.now().isoformat()}
    yield json.dumps(header)[:-1], 0
    account = {
        "profile": _first(User.objects.filter(pk=user.pk), _exported(User)),
        "groups": json.dumps(sorted(user.groups.values_list("name", flat=True))),
        "permissions": json.dumps(sorted(user.user_permissions.values_list("codename", flat=True))),
        "second_factor": _first(Authenticator.objects.filter(user=user), _exported(Authenticator)),
        "recovery_codes": _first(RecoveryCodes.objects.filter(user=user), _exported(RecoveryCodes)),
    }
    for name, text in account.items():
        yield f', "{name}": {text}', 0
    yield from _list("sessions", _sessions(user))
    events = AuditEvent.objects.all()
    is_own = Case(When(actor_id=user.pk, then=Value(True)), default=Value(False), output_field=BooleanField())
    about_account = {**{name: F(name) for name in _ACCOUNT_EVENTS}, "by_yourself": is_own}
    yield from _list("account_events", _rows(events.filter(object_id=str(user.pk)), about_account))
    disclosures = events.filter(subject_id=user.pk).exclude(object_id=str(user.pk))
    about_disclosure = {**{name: F(name) for name in _DISCLOSURES}, "by_yourself": is_own}
    yield from _list("disclosures", _rows(disclosures, about_disclosure))
    activity = events.filter(actor_id=user.pk).exclude(object_id=str(user.pk))
    yield from _list("activity", _rows(activity, {name: F(name) for name in _ACTIVITY}))
    yield "}\n", 0


def _sessions(user: User) -> Iterator[Iterator[Part]]:
    for key, text in _read(Session.objects.filter(user=user), _exported(Session)):
        messages = _read(Message.objects.filter(session=key), _exported(Message))
        list_of_messages = _list("messages", (iter([(message, 1)]) for _, message in messages))
        yield chain([(text[:-1], 0)], list_of_messages, [("}", 0)])


def _rows(rows: QuerySet, columns: dict[str, Any]) -> Iterator[Iterator[Part]]:
    return (iter([(text, 0)]) for _, text in _read(rows, columns))


def _list(name: str, items: Iterator[Iterator[Part]]) -> Iterator[Part]:
    yield f', "{name}": [', 0
    separator = "\n"
    for item in items:
        yield separator, 0
        yield from item
        separator = ",\n"
    yield "]", 0


def _exported(model: type[Model]) -> dict[str, Any]:
    """Return the columns that are exported, in the order of their definition."""
    secret = getattr(model, "SECRET", ())
    return {field.attname: F(field.attname) for field in stored_fields(model) if field.name not in secret}


def _as_json(columns: dict[str, Any]) -> Cast:
    """Return an expression for a JSON object. PostgreSQL writes it, because Python can't load every stored value."""
    pairs = chain.from_iterable((Cast(Value(name), TextField()), value) for name, value in columns.items())
    return Cast(Func(*pairs, function="json_build_object", output_field=TextField()), TextField())


def _first(rows: QuerySet, columns: dict[str, Any]) -> str:
    text: str | None = rows.order_by("pk").values_list(_as_json(columns), flat=True).first()
    return text or "null"


def _read(rows: QuerySet, columns: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the key and the JSON of each row, oldest first, in pages."""
    query = rows.order_by(*ordering(newest_first=False)).values_list("pk", "created_at", _as_json(columns))
    page = list(query[:_PAGE_SIZE])
    while page:
        for key, _, text in page:
            yield key, text
        if len(page) < _PAGE_SIZE:
            return
        cursor = encode_cursor(page[-1][1], page[-1][0])
        page = list(query.filter(after_cursor(rows.model, cursor, newest_first=False))[:_PAGE_SIZE])
