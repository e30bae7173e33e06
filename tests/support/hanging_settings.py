"""Settings of a server with the views of `tests.support.hanging_urls`."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.hanging_urls"
