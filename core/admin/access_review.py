"""The page of the access review, for superusers. It shows personal data and is not recorded, like the lists."""

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from core import access_review

MAX_ROWS = 1000  # on the page; the file has all


def view(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise PermissionDenied
    accounts = list(access_review.accounts())
    now = timezone.now()
    if request.GET.get("format") == "csv":
        response = HttpResponse(content_type="text/csv")
        response["Content-Disposition"] = f'attachment; filename="access-review-{now:%Y-%m-%d}.csv"'
        access_review.write_csv(response, accounts)
        return response
    context = {
        **admin.site.each_context(request),
        "title": "Access review",
        "accounts": accounts[:MAX_ROWS],
        "count": len(accounts),
        "remark_count": sum(bool(account.remarks) for account in accounts),
        "max_rows": MAX_ROWS,
        "unused_days": access_review.UNUSED_AFTER.days,
        "now": now,
    }
    return TemplateResponse(request, "admin/core/access_review.html", context)
