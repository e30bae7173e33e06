"""The application without middleware, for comparison."""

import os

import django
from django.core.handlers.wsgi import WSGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
django.setup()

from django.conf import settings  # noqa: E402  # after setup

settings.MIDDLEWARE = []
application = WSGIHandler()
