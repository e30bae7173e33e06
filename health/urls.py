"""The probes' paths, and those of the status page. health.middleware answers both before any routing."""

from django.urls import path

from health.status_page import views as status_views
from health.views import LivenessView, MetricsView, ReadinessView

urlpatterns = [
    path("health", LivenessView.as_view()),
    path("ready", ReadinessView.as_view()),
    path("metrics", MetricsView.as_view()),
]

status_urlpatterns = [
    path("admin/status/", status_views.page, name="status"),
    path("admin/status/part", status_views.part, name="status-part"),
]
