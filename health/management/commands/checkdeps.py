"""`manage.py checkdeps`: the checks of `/ready`, for people, scripts and init containers."""

import json
import time
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from health import readiness
from health.check_runner import Report, Runner
from health.checks import CHECKS, checks
from health.management import checkdeps_output


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ArgumentTypeError("must be a number of seconds above 0")
    return value


class Command(BaseCommand):
    help = "Checks PostgreSQL, Redis, Qdrant and migrations. Exit code 0: ready or degraded, 1: not ready."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", action="append", choices=list(CHECKS), metavar="NAME",
                            help=f"one of {', '.join(CHECKS)}; can be given several times")  # fmt: skip
        parser.add_argument("--wait", type=seconds, metavar="SECONDS", default=0,
                            help="try again until all that is critical is healthy, or so long")  # fmt: skip
        parser.add_argument("--timeout", type=seconds, metavar="SECONDS", default=settings.HEALTH_TIMEOUT,
                            help="for all checks together (HEALTH_TIMEOUT: %(default)s)")  # fmt: skip
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = checks(options["only"] or CHECKS)
        runner = Runner(wanted, timeout=options["timeout"], max_age=0, explain=readiness.explain)
        try:
            report = self._wait(runner, options["wait"])
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, as shells say it
        if options["format"] == "json":
            self.stdout.write(json.dumps(readiness.as_dict(report, for_staff=True), indent=2))
        else:
            checkdeps_output.write(report, self.stdout, self.style, no_color=options["no_color"])
        if report.status == "not_ready":
            raise SystemExit(1)

    def _wait(self, runner: Runner, wait: float) -> Report:
        end = time.monotonic() + wait
        with checkdeps_output.progress(self.stderr) as tell:
            while True:
                report = runner.report()
                left = end - time.monotonic()
                if report.status != "not_ready" or left <= 0:
                    return report
                tell(", ".join(f"{r.name} ({r.reason})" for r in report.results if r.reason and r.critical), left)
                time.sleep(min(0.5, left))
