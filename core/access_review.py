"""List the accounts to review regularly: those that can use the admin or hold `core.view_phi`.

    admin page    core.admin.access_review        command    manage.py access_review

45 CFR 164.308(a)(4)(ii)(C) requires the review of each user's right of access.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group, Permission
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from core.models import Authenticator, User

UNUSED_AFTER = timedelta(days=90)


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
    has_second_factor: bool
    last_login: datetime | None
    remarks: str  # what a reviewer should look at


def accounts() -> Iterator[Account]:
    """Return the accounts by email. Reads each table once, and only the rows of these accounts into memory."""
    sources = _view_phi_sources()
    authenticators = Authenticator.objects.filter(user=OuterRef("pk"), confirmed=True)
    privileged = Q(is_staff=True) | Q(is_superuser=True) | Q(is_emergency=True) | Q(pk__in=list(sources))
    users = User.objects.filter(privileged).annotate(has_second_factor=Exists(authenticators)).order_by("email")
    now = timezone.now()
    for user in users.defer("password"):
        view_phi = ["superuser"] if user.is_superuser else sources.get(user.pk, [])
        columns = {field.name: getattr(user, field.name) for field in fields(Account) if hasattr(user, field.name)}
        remarks = ", ".join(_remarks(user, bool(view_phi), now))
        yield Account(**columns, view_phi=", ".join(view_phi), remarks=remarks)


def _view_phi_sources() -> dict[UUID, list[str]]:
    """Return by user how each gets the permission: "directly", or by which groups."""
    permission = Permission.objects.get(content_type__app_label="core", codename="view_phi")
    direct = User.user_permissions.through.objects.filter(permission=permission)
    groups = dict(Group.objects.filter(permissions=permission).values_list("pk", "name"))
    members = User.groups.through.objects.filter(group__in=groups)
    sources: dict[UUID, list[str]] = {key: ["directly"] for key in direct.values_list("user_id", flat=True)}
    for key, group in members.order_by("group__name").values_list("user_id", "group_id"):
        sources.setdefault(key, []).append(f"group {groups[group]}")
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
