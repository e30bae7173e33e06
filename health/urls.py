"""The probes' paths. `ProbeMiddleware` answers them before any routing, with or without a trailing slash."""

from django.urls import path

from health.views import LivenessView, MetricsView, ReadinessView

PROBES = {
    "health": LivenessView.as_view(),
    "ready": ReadinessView.as_view(),
    "metrics": MetricsView.as_view(),
}
urlpatterns = [path(name, view) for name, view in PROBES.items()]
