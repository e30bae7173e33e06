"""The application's settings and the app beside this file."""

from voiceassist import settings
from voiceassist.settings import *  # noqa: F403

INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.support.migrating"]
