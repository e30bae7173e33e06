"""The probes' paths. `ProbeMiddleware` answers them before any routing, with or without a trailing slash."""

from django.urls import path

from health.views import LivenessView, MetricsView, ReadinessView

urlpatterns = [
    path("health", LivenessView.as_view()),
    path("ready", ReadinessView.as_view()),
    path("metrics", MetricsView.as_view()),
]
