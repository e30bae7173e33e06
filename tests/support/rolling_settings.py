"""Settings of a server that also appends messages and reads them."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.rolling_urls"
