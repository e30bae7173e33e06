"""Settings of the application under test, with the views that the load requests."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.failover.urls"
