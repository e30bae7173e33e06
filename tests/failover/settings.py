"""Settings of the server under test: ours, with the views that the load calls."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.failover.urls"
