"""The WSGI application, which gunicorn serves."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from core.http.content_type import read_as_utf_8

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")

if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
    from voiceassist import tracing

    tracing.instrument()  # adds a middleware, so it must run before the application is created

application = read_as_utf_8(get_wsgi_application())
