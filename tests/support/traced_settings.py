"""Settings of a server whose views touch all that a trace tells of."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.traced_urls"
