"""Record failed logins in the audit trail, without letting anonymous clients fill it.

Events can never be deleted, so their number is limited, whatever is sent. Within 15 minutes these are recorded:

    failures of an account           each, up to its limit
    failures from a network          the 1st, 10th, 100th, …, whether the account exists or not. At most MAX_NETWORKS
                                     addresses or IPv6 /48s are counted separately, all others together
    locks                            if the failure that reached the limit is recorded

Each event has the numbers of failures so far, so what is not recorded is known to have happened.
"""

from typing import Any

from django.db import transaction

from core import audit
from core.auth import login_failures
from core.models import AuditEvent

MAX_NETWORKS = 20


def record(
    action: AuditEvent.Action, request: Any, credentials: dict[str, Any], failures: dict[str, int], *, is_lock: bool
) -> None:
    """Record a failure, and that it has reached a limit. Needs a transaction.

    Submitted values are never recorded, because a user may have typed the password into the wrong field.
    """
    user = login_failures.find_user(request, credentials)
    of_account = failures.get("account", failures.get("account_on_device", 0))
    of_network = login_failures.add_to_network(request, MAX_NETWORKS)
    is_recorded = _is_power_of_ten(of_network) or (user is not None and of_account <= login_failures.LIMITS["account"])
    changes = {"failures of the account": [None, of_account], "failures of the network": [None, of_network]}
    actor = None if action is AuditEvent.Action.LOGIN_FAILED else request.user
    for event in [action, AuditEvent.Action.LOGIN_LOCKED] if is_lock else [action]:
        with transaction.atomic():
            audit.record(event, request, user=actor, target=user, changes=changes)
            # Failures of unknown accounts must not be faster.
            transaction.set_rollback(not is_recorded)


def _is_power_of_ten(number: int) -> bool:
    return str(number).rstrip("0") == "1"
