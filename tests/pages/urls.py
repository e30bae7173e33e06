"""URLs of the server, and a page of the admin that fails. Lists are short, because axe-core looks at every cell."""

from django.contrib import admin
from django.urls import path

from core.models import AuditEvent, Message, Session
from tests.support.failing_urls import fail, handler400, handler403, handler404, handler500, urlpatterns

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]

for model in (AuditEvent, Message, Session):
    type(admin.site.get_model_admin(model)).list_per_page = 10

urlpatterns = [path("admin/fail/", fail), *urlpatterns]
