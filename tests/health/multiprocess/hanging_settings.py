"""Settings of a server with the views of `tests.health.multiprocess.hanging_urls`."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.health.multiprocess.hanging_urls"
