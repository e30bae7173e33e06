"""Settings of a server with views that append and read messages."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.rolling_urls"
