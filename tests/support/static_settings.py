"""The project's settings without the compression of static files, which takes 16 seconds of CPU time."""

from voiceassist.settings import *  # noqa: F403
from voiceassist.settings import STORAGES

STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
