"""Settings of a server with the views of `tests.support.traced_urls`."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.traced_urls"
