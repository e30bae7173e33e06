"""The audit trail: what the triggers can't see is recorded here, and here they learn who acts.

Creating, changing and deleting rows is recorded by triggers (migration 0003), so that nothing gets past them: no bulk
update, no plain SQL. They take who acts from a setting of the transaction. Revealing, logging in and failing to log in
are no change of a row and are recorded by `record`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import connection, transaction
from django.db.models import Model
from django.dispatch import receiver
from django.http import HttpRequest

from core.http.client_ip import client_address
from core.models import AuditEvent, User
from core.trace_id import get_or_create_trace_id


def _who(user: Any, request: HttpRequest | None) -> dict[str, Any]:
    known = user is not None and user.pk is not None
    return {
        "actor_id": user.pk if known else None,
        "actor_email": user.email if known else "",
        "address": client_address(request) or None if request else None,
        "trace_id": get_or_create_trace_id() if request else "",
    }


@contextmanager
def audit_context(request: HttpRequest) -> Iterator[None]:
    """A transaction whose changes are recorded as those of the request's user."""
    who = json.dumps(_who(request.user, request), default=str)
    with transaction.atomic():
        with connection.cursor() as cursor:
            # For this transaction alone: behind a pooler the next one of this connection may be another client's.
            cursor.execute("SELECT set_config('voiceassist.audit', %s, true)", [who])
        yield


def record(action: AuditEvent.Action, request: HttpRequest | None, *, user: Any, of: Model | None = None) -> None:
    """Records that `user` did `action` to the row `of`. Raises DatabaseError if it can't: then do not go on."""
    AuditEvent.objects.create(
        action=action,
        table=of._meta.db_table if of else "",
        object_id=str(of.pk) if of else "",
        **_who(user, request),
    )


@receiver(user_logged_in)
def _logged_in(request: HttpRequest, user: User, **kwargs: Any) -> None:
    record(AuditEvent.Action.LOGIN, request, user=user, of=user)


@receiver(user_logged_out)
def _logged_out(request: HttpRequest, user: User | None, **kwargs: Any) -> None:
    if user is not None:
        record(AuditEvent.Action.LOGOUT, request, user=user, of=user)


def login_failed(action: AuditEvent.Action, request: HttpRequest, credentials: dict[str, Any]) -> None:
    """Names the account if there is one. What else was typed is not kept: it may be a password."""
    account = User.objects.filter(email=str(credentials.get("username", ""))[:254]).first()
    record(action, request, user=None, of=account)
