"""Record audit events that database triggers can't see, and set the actor that the triggers record.

Triggers record every created, changed and deleted row of the tables in `core.audit_policy`, so that bulk updates and
plain SQL are recorded too. They read the actor from a setting of the transaction. Events that change no row, such as
revealing PHI and logging in, are recorded by `record`.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import connection, transaction
from django.db.models import Model
from django.dispatch import receiver
from django.http import HttpRequest

from core.http.client_ip import client_address
from core.models import AuditEvent, Message, Session, User
from core.trace_id import get_or_create_trace_id


class Origin(NamedTuple):
    """Who made a change, from where, and in which request. Background jobs keep it, with the reason."""

    actor_id: UUID | None = None
    actor_email: str = ""
    address: str | None = None
    trace_id: str = ""
    reason: str = ""

    def actor(self) -> dict[str, Any]:
        """Return the columns of an audit event."""
        return {name: value for name, value in self._asdict().items() if name != "reason"}


_NO_ORIGIN = Origin()
_origin: ContextVar[Origin] = ContextVar("audit_origin", default=_NO_ORIGIN)


def current_origin() -> Origin:
    """Return the origin that `attributed_to` has set, otherwise an empty one."""
    return _origin.get()


def _origin_of(user: Any, request: HttpRequest | None, reason: str = "") -> Origin:
    is_known = user is not None and user.pk is not None
    return Origin(
        actor_id=user.pk if is_known else None,
        actor_email=user.email if is_known else "",
        address=(client_address(request) or None) if request else None,
        trace_id=get_or_create_trace_id() if request else "",
        reason=reason,
    )


@contextmanager
def attributed_to(origin: Origin) -> Iterator[None]:
    """Open a transaction whose changes the triggers attribute to `origin`."""
    token = _origin.set(origin)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # Transaction-local (true), because a pooler may give the connection to another client afterwards.
                actor = json.dumps(origin.actor(), default=str)
                cursor.execute("SELECT set_config('voiceassist.audit', %s, true)", [actor])
            yield
    finally:
        _origin.reset(token)


def audit_context(request: HttpRequest, user: User | None = None, reason: str = "") -> AbstractContextManager[None]:
    """Open a transaction whose changes the triggers attribute to `user`, by default the request's user.

    Jobs that are enqueued in it have the same origin, and `reason`.
    """
    return attributed_to(_origin_of(user or request.user, request, reason))


def record(
    action: AuditEvent.Action,
    request: HttpRequest | None,
    *,
    user: Any,
    target: Model | None = None,
    changes: dict[str, list[Any]] | None = None,
) -> None:
    """Record that `user` did `action` to the row `target`, and of a disclosure whose data it is.

    Without `user` and `request` the event has the origin that `attributed_to` has set, as in a job.

    Raise DatabaseError on failure. The caller must then abort the action, otherwise it would leave no record.
    """
    origin = current_origin() if user is None and request is None else _origin_of(user, request)
    subject_id, session_id = _concerned(target) if action in AuditEvent.DISCLOSURES else (None, None)
    # The digests of checkpoints cover `changes` in every release, see core.audit_checkpoints.
    concerned = {name: [None, str(key)] for name, key in (("subject", subject_id), ("session", session_id)) if key}
    AuditEvent.objects.create(
        action=action,
        table=target._meta.db_table if target else "",
        object_id=str(target.pk) if target else "",
        subject_id=subject_id,
        session_id=session_id,
        changes={**(changes or {}), **concerned},
        **origin.actor(),
    )


def _concerned(target: Model | None) -> tuple[UUID | None, UUID | None]:
    """Return the user whose data `target` is, and the conversation. A row that was deleted meanwhile has none."""
    keys: tuple[UUID | None, UUID | None] | None = None
    if isinstance(target, User):
        keys = (target.pk, None)
    elif isinstance(target, Session):
        keys = Session.objects.filter(pk=target.pk).values_list("user_id", "pk").first()
    elif isinstance(target, Message):
        keys = Message.objects.filter(pk=target.pk).values_list("session__user_id", "session_id").first()
    return keys or (None, None)


@receiver(user_logged_in)
def _logged_in(request: HttpRequest, user: User, **kwargs: Any) -> None:
    record(AuditEvent.Action.LOGIN, request, user=user, target=user)


@receiver(user_logged_out)
def _logged_out(request: HttpRequest, user: User | None, **kwargs: Any) -> None:
    if user is not None:
        record(AuditEvent.Action.LOGOUT, request, user=user, target=user)
