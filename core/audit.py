"""Record audit events that database triggers can't see, and set the actor that the triggers record.

Triggers record every created, changed and deleted row of the tables in `core.audit_policy`, so that bulk updates and
plain SQL are recorded too. They read the actor from a setting of the transaction. Events that change no row, such as
revealing PHI and logging in, are recorded by `record`.
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


def _actor(user: Any, request: HttpRequest | None) -> dict[str, Any]:
    is_known = user is not None and user.pk is not None
    return {
        "actor_id": user.pk if is_known else None,
        "actor_email": user.email if is_known else "",
        "address": (client_address(request) or None) if request else None,
        "trace_id": get_or_create_trace_id() if request else "",
    }


@contextmanager
def audit_context(request: HttpRequest, user: User | None = None) -> Iterator[None]:
    """Open a transaction whose changes the triggers attribute to `user`, by default the request's user."""
    actor = json.dumps(_actor(user or request.user, request), default=str)
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Transaction-local (true), because a pooler may give the connection to another client afterwards.
            cursor.execute("SELECT set_config('voiceassist.audit', %s, true)", [actor])
        yield


def record(
    action: AuditEvent.Action,
    request: HttpRequest | None,
    *,
    user: Any,
    target: Model | None = None,
    changes: dict[str, list[Any]] | None = None,
) -> None:
    """Record that `user` did `action` to the row `target`.

    Raise DatabaseError on failure. The caller must then abort the action, otherwise it would leave no record.
    """
    AuditEvent.objects.create(
        action=action,
        table=target._meta.db_table if target else "",
        object_id=str(target.pk) if target else "",
        changes=changes or {},
        **_actor(user, request),
    )


@receiver(user_logged_in)
def _logged_in(request: HttpRequest, user: User, **kwargs: Any) -> None:
    record(AuditEvent.Action.LOGIN, request, user=user, target=user)


@receiver(user_logged_out)
def _logged_out(request: HttpRequest, user: User | None, **kwargs: Any) -> None:
    if user is not None:
        record(AuditEvent.Action.LOGOUT, request, user=user, target=user)
