"""URL patterns of the probes, of the status page and of the login page.

health.middleware calls the probes' views before URL routing.
"""

from django.urls import path
from django.views.decorators.gzip import gzip_page

from health.status_page import login, views
from health.views import LivenessView, MetricsView, ReadinessView

urlpatterns = [
    path("health", LivenessView.as_view()),
    path("ready", ReadinessView.as_view()),
    path("metrics", gzip_page(MetricsView.as_view())),
]

status_urlpatterns = [
    path("admin/login/", login.page),  # before the admin's own, which it shows while the database works
    path("admin/status/", views.page, name="status"),
    path("admin/status/part", views.fragment, name="status-fragment"),
    path("admin/status/docs/<slug:name>.md", views.documentation, name="documentation"),
]
