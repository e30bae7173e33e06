"""`manage.py checkdeps`: the checks of `/ready` for operators, scripts and init containers."""

import json
import time
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from health import database_warnings, readiness
from health.check_runner import Report, Runner
from health.checks import CHECKS, checks
from health.management import checkdeps_output


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ArgumentTypeError("must be a positive number of seconds below 1,000,000")
    return value


class Command(BaseCommand):
    help = "Checks all dependencies of the server. Exits with 0 if ready or degraded, with 1 if not ready."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", action="append", choices=list(CHECKS), metavar="NAME",
                            help=f"check only this dependency ({', '.join(CHECKS)}); can be repeated")  # fmt: skip
        parser.add_argument("--wait", type=seconds, metavar="SECONDS", default=0,
                            help="retry for up to this time until all critical dependencies are healthy")  # fmt: skip
        parser.add_argument("--timeout", type=seconds, metavar="SECONDS", default=settings.HEALTH_TIMEOUT,
                            help="timeout of all checks together (default: HEALTH_TIMEOUT, %(default)s)")  # fmt: skip
        parser.add_argument("--format", choices=["text", "json"], default="text")

    def handle(self, *args: Any, **options: Any) -> None:
        selected = checks(options["only"] or CHECKS)
        runner = Runner(selected, timeout=options["timeout"], max_age=0, explain=readiness.explain)
        try:
            report = self._wait(runner, options["wait"])
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, the convention of shells
        if options["format"] == "json":
            self.stdout.write(json.dumps(readiness.as_dict(report, for_staff=True), indent=2))
        else:
            checkdeps_output.write(report, self.stdout, self.style)
        checkdeps_output.write_warnings(database_warnings.current.values(), self.stderr, self.style)
        if report.status == "not_ready":
            raise SystemExit(1)

    def _wait(self, runner: Runner, timeout: float) -> Report:
        deadline = time.monotonic() + timeout
        with checkdeps_output.progress(self.stderr) as report_progress:
            while True:
                report = runner.report()
                left = deadline - time.monotonic()
                if report.status != "not_ready" or left <= 0:
                    return report
                report_progress(report, left)
                time.sleep(min(0.5, left))
