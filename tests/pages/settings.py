"""The settings of the server, with one more URL whose view fails."""

from voiceassist.settings import *  # noqa: F403

ROOT_URLCONF = "tests.pages.urls"
