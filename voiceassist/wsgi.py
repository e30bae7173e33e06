"""What gunicorn serves."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")

if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
    from voiceassist import tracing

    tracing.instrument()  # before the application is made: it adds a middleware

application = get_wsgi_application()
