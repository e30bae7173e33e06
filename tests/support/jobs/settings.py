"""The project's settings with the tasks of the tests."""

from voiceassist.settings import *  # noqa: F403
from voiceassist.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support.jobs"]
