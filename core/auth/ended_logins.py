"""End all logins of a user at once, on every server. It takes effect at the next request, whatever Redis has cached.

The database also ends them when an account is deactivated or loses staff access (migration 0009).
"""

from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now
from django.http import HttpRequest

from core import audit
from core.models import AuditEvent, User


def end_logins(user: User, request: HttpRequest | None = None) -> None:
    """End all logins of `user`, and record that the user of `request` has done it."""
    actor = request.user if request else None
    with transaction.atomic():
        # Another value even if the server's clock was set back, because `core.auth.session_expiry` compares values.
        later = Greatest(Now(), F("logins_ended_at") + timedelta(microseconds=1))
        User.objects.filter(pk=user.pk).update(logins_ended_at=later)
        audit.record(AuditEvent.Action.LOGINS_ENDED, request, user=actor, target=user)
