#!/usr/bin/env python
"""Django's command-line utility. In development it first starts the embedded servers that the command needs."""

import os
import sys

from voiceassist.logs.streams import exiting_on_broken_pipe, open_closed_streams


def main() -> None:
    open_closed_streams()
    # Set by gunicorn; a command that inherits it would leave metric files that are never merged.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
    from django.conf import settings
    from django.core.management import execute_from_command_line

    apply_settings_options(sys.argv)
    if servers := getattr(settings, "EMBEDDED_SERVERS", ()):
        from voiceassist.embedded import start_for_command

        start_for_command(sys.argv, servers)
    with exiting_on_broken_pipe():
        execute_from_command_line(sys.argv)


def apply_settings_options(argv: list[str]) -> None:
    """Apply --settings and --pythonpath now, because Django does so only after main() has read the settings."""
    from django.core.management.base import CommandError, CommandParser, handle_default_options

    parser = CommandParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    try:
        options, _ = parser.parse_known_args(argv[2:])
    except CommandError:
        return  # Django reports it
    handle_default_options(options)


if __name__ == "__main__":
    main()
