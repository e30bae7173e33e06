"""Settings of a server with the views of `tests.support.logging_urls`."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.logging_urls"
