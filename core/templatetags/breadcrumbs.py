"""Breadcrumbs of the admin's templates."""

from typing import Any

from django import template
from django.template import Context

from core.admin.breadcrumbs import Crumb, trail

register = template.Library()


@register.inclusion_tag("admin/core/breadcrumbs.html", takes_context=True)
def breadcrumbs(context: Context, row: Any, *titles: str) -> dict[str, Any]:
    """Show the path from the user to `row`, and then `titles`, without links. The last item is the current page."""
    is_own_page = context["opts"].model is row._meta.model  # otherwise the filters belong to a list of something else
    preserved_filters = str(context.get("preserved_filters", "")) if is_own_page else ""
    crumbs = trail(context["request"], row, preserved_filters)
    if not titles:
        crumbs[-1] = Crumb(crumbs[-1].label)
    return {"crumbs": [*crumbs, *(Crumb(title) for title in titles)]}
