"""The application's settings with the app in this folder."""

from voiceassist import settings
from voiceassist.settings import *  # noqa: F403

INSTALLED_APPS = [*settings.INSTALLED_APPS, "tests.support.migrating"]
