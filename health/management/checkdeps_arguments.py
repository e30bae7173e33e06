"""The arguments of `checkdeps`."""

from argparse import ArgumentTypeError

from django.conf import settings
from django.core.management.base import CommandParser
from packaging.version import InvalidVersion, Version

from health.checks import CHECKS


def add(parser: CommandParser) -> None:
    parser.add_argument("--only", action="append", choices=list(CHECKS), metavar="NAME",
                        help=f"check only this dependency ({', '.join(CHECKS)}); can be repeated")  # fmt: skip
    parser.add_argument("--wait", type=seconds, metavar="SECONDS", default=0,
                        help="keep retrying for up to SECONDS until every critical dependency is healthy")  # fmt: skip
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", default=settings.HEALTH_TIMEOUT,
                        help="time limit for all checks together (default: HEALTH_TIMEOUT, %(default)s)")  # fmt: skip
    parser.add_argument("--for", type=version, metavar="VERSION", dest="for_version",
                        help="check whether this version of the server may run on the database")  # fmt: skip
    parser.add_argument("--format", choices=["text", "json"], default="text",
                        help="table for people, or JSON for programs (default: %(default)s)")  # fmt: skip


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise ArgumentTypeError("must be a number of seconds greater than 0 and less than 1,000,000")
    return value


def version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise ArgumentTypeError("must be a version such as 1.2.3") from None
