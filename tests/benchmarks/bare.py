"""Our application with no middleware at all."""

import os

import django
from django.core.handlers.wsgi import WSGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
django.setup()

from django.conf import settings  # noqa: E402  # ready now

settings.MIDDLEWARE = []
application = WSGIHandler()
