#!/usr/bin/env python
"""Django's command line. In development it starts the embedded servers that the command may need."""

import os
import sys


def main() -> None:
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # a server's: a command would leave files there that nobody merges
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
    from django.conf import settings
    from django.core.management import execute_from_command_line

    if settings.EMBEDDED_SERVERS:
        from voiceassist.embedded import start_for_command

        start_for_command(sys.argv, settings.EMBEDDED_SERVERS)
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
