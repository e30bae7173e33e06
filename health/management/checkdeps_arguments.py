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
                        help="retry for up to this time until all critical dependencies are healthy")  # fmt: skip
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", default=settings.HEALTH_TIMEOUT,
                        help="timeout of all checks together (default: HEALTH_TIMEOUT, %(default)s)")  # fmt: skip
    parser.add_argument("--for", type=version, metavar="VERSION", dest="for_version",
                        help="check whether this version of the server may run on the database")  # fmt: skip
    parser.add_argument("--format", choices=["text", "json"], default="text")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ArgumentTypeError("must be a positive number of seconds below 1,000,000")
    return value


def version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise ArgumentTypeError("must be a version such as 1.2.3") from None
