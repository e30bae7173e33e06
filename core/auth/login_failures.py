"""Count failed logins in the table of django-axes, and compare the counts with the limits.

The limits apply to the failures within `AXES_COOLOFF_TIME`. An IPv4 address counts as one address, and so does an IPv6
/64, in which a client can use any address. Customers of providers get a /56 or a /48 with many /64s, so these have
limits too. They are higher, because many customers, or the devices of a hospital, may share one.

Rows of `AccessAttempt` have these keys:

    username          ip_address  user_agent
    account           address                 failures of one account from one address
    account device    ::                      failures of one account on a device that it has logged in on
    network           /48 or ::   window      failures from one network for `core.auth.failed_login_events`

An account is the keyed hash of the entered name, because a password may be typed into the wrong field. axes deletes
expired rows at every login and failure. A row costs a password hash, of which each process computes one at a time.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from axes.attempts import get_cool_off_threshold
from axes.models import AccessAttempt
from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import salted_hmac

from core.auth import known_devices
from core.http.client_ip import client_address, parse_address
from core.models import User

LIMITS = {
    "account_at_address": 5,  # low, because the owner can still log in from elsewhere
    "account_in_56": 10,
    "account_in_48": 20,  # below the next one, so that no single network can lock an account everywhere
    "account": 50,  # from anywhere; not for emergency accounts
    "address": 100,  # any account; high, because a hospital may share one address
    "network_56": 200,
    "network_48": 400,
    "account_on_device": 5,  # replaces all others on a device that the account has logged in on
}
ANYWHERE = "::"  # not NULL, which PostgreSQL considers unique, so that concurrent requests would create several rows
_FAILURES, _WINDOW = "", "window"
_NETWORK = "network"


def hashed_username(request: HttpRequest | None, credentials: dict[str, Any] | None) -> str:
    """Return a keyed hash of the normalised username, under which failures are counted."""
    name = str((credentials or {}).get("username", ""))
    return salted_hmac("voiceassist.logins", name.strip().lower(), algorithm="sha256").hexdigest()


def client_network(request: HttpRequest) -> str | None:
    """Return the first address of the network that counts as one address, None if the client's is unknown."""
    address = client_address(request)
    return network_range(address, 64)[0] if address else None


def network_range(address: str, prefix: int) -> tuple[str, str]:
    """Return the first and the last address of the IPv6 network around an address, for IPv4 the address itself."""
    ip = ip_address(parse_address(address))
    if not isinstance(ip, IPv6Address):
        return str(ip), str(ip)
    network = ip_network((ip, prefix), strict=False)
    return str(network[0]), str(network[-1])


def find_user(request: Any, credentials: dict[str, Any] | None) -> User | None:
    """Return the user whose name was entered. The request keeps the result, because each attempt needs it often."""
    name = str((credentials or {}).get("username", "")).strip()
    if getattr(request, "login_user", (None,))[0] != name:
        request.login_user = name, User.objects.filter(email=name).first()
    user: User | None = request.login_user[1]
    return user


def recent(request: Any, credentials: dict[str, Any] | None) -> tuple["QuerySet[AccessAttempt]", dict[str, Q]]:
    """Return the recent failures that share anything with this attempt, and conditions by the scopes of LIMITS."""
    account, user = hashed_username(request, credentials), find_user(request, credentials)
    rows = AccessAttempt.objects.filter(user_agent=_FAILURES, attempt_time__gt=get_cool_off_threshold(request))
    if device := known_devices.device_of(request, user):
        on_device = Q(username=_on_device(account, device))
        return rows.filter(on_device), {"account_on_device": on_device}
    of_account = Q(username=account)
    address = client_network(request) or ANYWHERE
    within = {prefix: Q(ip_address__range=network_range(address, prefix)) for prefix in (64, 56, 48)}
    scopes = {
        "account_at_address": of_account & within[64],
        "account_in_56": of_account & within[56],
        "account_in_48": of_account & within[48],
        "account": of_account,
        "address": within[64],
        "network_56": within[56],
        "network_48": within[48],
    }
    return rows.filter(of_account | within[48]), scopes


def count(request: Any, credentials: dict[str, Any] | None) -> dict[str, int]:
    """Return the number of recent failures that this attempt has in common with others, by the scopes of LIMITS."""
    rows, scopes = recent(request, credentials)
    sums = {scope: Sum("failures_since_start", filter=which, default=0) for scope, which in scopes.items()}
    failures: dict[str, int] = rows.aggregate(**sums)
    return failures


def reached_limits(failures: dict[str, int], user: User | None) -> list[str]:
    """Return the scopes whose limit is reached."""
    is_emergency = user is not None and user.is_emergency
    return [
        scope
        for scope, number in failures.items()
        if number >= LIMITS[scope] and not (is_emergency and scope == "account")
    ]


def add(request: Any, credentials: dict[str, Any]) -> None:
    """Count a failure of this account on this device or at this address."""
    account = hashed_username(request, credentials)
    if device := known_devices.device_of(request, find_user(request, credentials)):
        _increment(request, _FAILURES, _on_device(account, device), ANYWHERE)
    else:
        _increment(request, _FAILURES, account, client_network(request) or ANYWHERE)


def add_to_network(request: Any, max_networks: int) -> int:
    """Return the number of failures from this /48 or IPv4 address since the first one of its window, this one included.

    If there are windows of `max_networks` others, it is the number of failures from all further ones.
    """
    windows = AccessAttempt.objects.filter(username=_NETWORK, attempt_time__gt=get_cool_off_threshold(request))
    networks = set(windows.values_list("ip_address", flat=True)) - {ANYWHERE}
    network = network_range(client_address(request) or ANYWHERE, 48)[0]
    is_counted = network in networks or len(networks) < max_networks
    return _increment(request, _WINDOW, _NETWORK, network if is_counted else ANYWHERE)


def forget(request: Any, user: User) -> None:
    """Delete the failures of this account at this address and on this device.

    Other failures remain. Otherwise an attacker could reset the limit of the address by logging in to an own account.
    """
    account = hashed_username(request, {"username": user.get_username()})
    rows = Q(username=account, ip_address=client_network(request) or ANYWHERE)
    if device := known_devices.device_of(request, user):
        rows |= Q(username=_on_device(account, device))
    AccessAttempt.objects.filter(rows, user_agent=_FAILURES).delete()


def reset(*, address: str | None, username: str | None) -> int:
    """Delete the rows of an account, or of all addresses in the /48 of an address. Return their number."""
    rows = AccessAttempt.objects.all()
    if address is not None:
        rows = rows.filter(ip_address__range=network_range(address, 48))
    if username is not None:
        rows = rows.filter(username__startswith=hashed_username(None, {"username": username}))
    return int(rows.delete()[0])


@transaction.atomic
def delete_expired() -> int:
    """Delete expired rows. It skips locked rows, and the caller locks no more rows, to avoid deadlocks."""
    keys = expired().select_for_update(skip_locked=True).values("pk")
    return int(AccessAttempt.objects.filter(pk__in=keys).delete()[0])


def expired() -> "QuerySet[AccessAttempt]":
    """Return the expired rows."""
    rows: QuerySet[AccessAttempt] = AccessAttempt.objects.all()
    return rows.filter(attempt_time__lte=timezone.now() - settings.AXES_COOLOFF_TIME)


def _on_device(account: str, device: str) -> str:
    return f"{account} {device}"


def _increment(request: Any, kind: str, key: str, network: str) -> int:
    """Add one to the row and return its number. An expired row starts again. Needs a transaction."""
    row, is_new = AccessAttempt.objects.select_for_update().get_or_create(
        username=key, ip_address=network, user_agent=kind, defaults={"failures_since_start": 1}
    )
    if not is_new:
        is_expired = row.attempt_time <= get_cool_off_threshold(request)
        row.failures_since_start = 1 if is_expired else row.failures_since_start + 1
        if is_expired or kind == _FAILURES:  # a window ends a fixed time after its first failure
            row.attempt_time = request.axes_attempt_time
        row.save(update_fields=["failures_since_start", "attempt_time"])
    return int(row.failures_since_start)
