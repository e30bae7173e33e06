"""URLs of the server, and a page of the admin that fails."""

from django.urls import path

from tests.support.failing_urls import fail, handler400, handler403, handler404, handler500, urlpatterns

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns"]

urlpatterns = [path("admin/fail/", fail), *urlpatterns]
