"""Breadcrumbs from a user to their sessions, and from a session to its messages.

Users › ann@example.org › Sessions › 2026-11-25 13:40:00 UTC › Messages › 2026-11-25 14:00:40 UTC
"""

from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from core.admin.conversation_rows import ConversationRow
from core.admin.display import time_element
from core.models import Session, User


class Crumb(NamedTuple):
    label: str
    url: str = ""  # empty if the reader may not open the page


def trail(request: HttpRequest, row: ConversationRow, preserved_filters: str = "") -> list[Crumb]:
    """Return the breadcrumbs from the list of users to the page of `row`.

    `preserved_filters` are those of the list from which the page of `row` was opened.
    """
    crumbs = _trail(request, row)
    opts = row._meta
    if preserved_filters and crumbs[-1].url:
        list_url = reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist")
        *_, of_list, of_row = crumbs
        context = {"opts": opts, "preserved_filters": preserved_filters}
        crumbs[-2:] = [
            of_list._replace(url=add_preserved_filters(context, list_url)),
            of_row._replace(url=add_preserved_filters(context, of_row.url)),
        ]
    return crumbs


def _trail(request: HttpRequest, row: Any) -> list[Crumb]:
    model = row._meta.model  # the pages of the admin may pass an object that only behaves like a row
    if model is User:
        return _pair(request, model, row.pk, row.email)
    owner = {"user": row.user} if model is Session else {"session": row.session}
    (parent,) = owner.values()
    return [*_trail(request, parent), *_pair(request, model, row.pk, time_element(row.created_at), **owner)]


def _pair(request: HttpRequest, model: type[Model], key: Any, label: str, **owner: Any) -> list[Crumb]:
    """Return the breadcrumbs of a list and of one row."""
    opts = model._meta
    title = str(opts.verbose_name_plural).capitalize()
    if not admin.site.get_model_admin(model).has_view_permission(request):
        return [Crumb(title), Crumb(label)]
    name = f"admin:{opts.app_label}_{opts.model_name}"
    query = {f"{field}__id__exact": row.pk for field, row in owner.items()}
    list_url = reverse(f"{name}_changelist", query=query or None)
    return [Crumb(title, list_url), Crumb(label, reverse(f"{name}_change", args=[key]))]
