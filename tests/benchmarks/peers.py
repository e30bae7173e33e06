"""The smallest projects that use the packages which readiness is compared with. The variable PEER selects one.

bare        the same JSON from a plain view behind SecurityMiddleware and CommonMiddleware
health      django-health-check with its Database and Redis checks
watchman    django-watchman with databases and caches
"""

import os
from datetime import UTC, datetime
from typing import Any

import environ
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

PEER = os.environ["PEER"]
APPS = {"bare": [], "health": ["health_check"], "watchman": ["watchman"]}

settings.configure(
    SECRET_KEY="k" * 64,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=APPS[PEER],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DATABASES={"default": environ.Env().db_url("DATABASE_URL")},
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": os.environ["REDIS_URL"]}},
    USE_TZ=True,
)


def bare(request: HttpRequest) -> JsonResponse:
    data = {"status": "healthy", "service": "voiceassist", "version": "0.1.0"}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    envelope = {"success": True, "data": data, "error": None, "trace_id": "0" * 36, "timestamp": now}
    return JsonResponse(envelope, headers={"Cache-Control": "no-store"})


def view() -> Any:
    if PEER == "bare":
        return bare
    if PEER == "health":
        from health_check.views import HealthCheckView
        from redis.asyncio import Redis

        factory = {"client_factory": lambda: Redis.from_url(os.environ["REDIS_URL"])}
        checks = ["health_check.checks.Database", ("health_check.contrib.redis.Redis", factory)]
        return HealthCheckView.as_view(checks=checks)
    from watchman.views import status

    return status


application = get_wsgi_application()
urlpatterns = [path("check", view())]
