"""List the accounts to review regularly: those that can use the admin, or may reveal PHI or export a user's data.

    admin page    core.admin.access_review        command    manage.py access_review

45 CFR 164.308(a)(4)(ii)(C) requires the review of each user's right of access.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from core.models import Authenticator, User

UNUSED_AFTER = timedelta(days=90)
PERMISSIONS = ("view_phi", "export_user")


@dataclass(frozen=True)
class Account:
    id: UUID
    email: str
    full_name: str
    is_active: bool
    is_staff: bool
    is_superuser: bool
    is_emergency: bool
    view_phi: str  # how the account gets the permission, "" without it
    export_user: str  # the same
    has_second_factor: bool
    last_login: datetime | None
    remarks: str  # what a reviewer should look at


def accounts() -> Iterator[Account]:
    """Return the accounts by email. Reads each table once, and only the rows of these accounts into memory."""
    sources = _sources()
    authenticators = Authenticator.objects.filter(user=OuterRef("pk"), confirmed=True)
    privileged = Q(is_staff=True) | Q(is_superuser=True) | Q(is_emergency=True)
    holders = {key for by_user in sources.values() for key in by_user}
    users = User.objects.filter(privileged | Q(pk__in=holders)).order_by("email")
    now = timezone.now()
    for user in users.annotate(has_second_factor=Exists(authenticators)).defer("password"):
        columns = {field.name: getattr(user, field.name) for field in fields(Account) if hasattr(user, field.name)}
        rights: dict[str, Any] = {
            name: "superuser" if user.is_superuser else ", ".join(sources[name].get(user.pk, ()))
            for name in PERMISSIONS
        }
        remarks = ", ".join(_remarks(user, bool(rights["view_phi"]), now))
        yield Account(**columns, **rights, remarks=remarks)


def _sources() -> dict[str, dict[UUID, list[str]]]:
    """Return by permission and user how each gets it: "directly", or by which groups."""
    is_listed = Q(permission__content_type__app_label="core", permission__codename__in=PERMISSIONS)
    direct = User.user_permissions.through.objects.filter(is_listed)
    by_group = Group.permissions.through.objects.filter(is_listed).order_by("group__name")
    groups = list(by_group.values_list("permission__codename", "group_id", "group__name"))
    members = defaultdict(list)
    memberships = User.groups.through.objects.filter(group__in={group for _, group, _ in groups})
    for user, group in memberships.values_list("user_id", "group_id"):
        members[group].append(user)
    sources: dict[str, dict[UUID, list[str]]] = {name: {} for name in PERMISSIONS}
    for permission, user in direct.values_list("permission__codename", "user_id"):
        sources[permission][user] = ["directly"]
    for permission, group, name in groups:
        for user in members[group]:
            sources[permission].setdefault(user, []).append(f"group {name}")
    return sources


def _remarks(user: Any, has_view_phi: bool, now: datetime) -> Iterator[str]:
    if not user.is_active:
        yield "inactive, but keeps its rights"
        return
    if not user.has_second_factor:
        yield "no second factor"
    if user.last_login is None:
        yield "never logged in"
    elif now - user.last_login > UNUSED_AFTER:
        yield f"no login for {UNUSED_AFTER.days} days"
    if user.must_change_password:
        yield "must change the password"
    if has_view_phi and not user.is_staff:
        yield "may reveal PHI, but is not staff"


def as_texts(account: Account) -> dict[str, str]:
    """Return the columns as text: "yes" or "", times in ISO 8601, and "never" without a login."""
    return {name: _as_text(value) for name, value in asdict(account).items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return "never" if value is None else str(value)


def write_csv(file: Any, rows: Iterable[Account]) -> None:
    writer = csv.DictWriter(file, [field.name for field in fields(Account)])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _as_cell(text) for name, text in as_texts(row).items()})


def _as_cell(text: str) -> str:
    """Return the text so that a spreadsheet does not run it. https://owasp.org/www-community/attacks/CSV_Injection"""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
