"""`manage.py checkdeps`: the checks of `/ready` for operators, scripts and init containers."""

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from health import database_warnings, readiness
from health.check_runner import Report, Runner
from health.checks import CHECKS, checks, root_cause
from health.management import checkdeps_arguments, checkdeps_output


class Command(BaseCommand):
    help = "Checks all dependencies of the server. Exit code 0: ready or degraded; 1: not ready; 2: wrong usage."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        checkdeps_arguments.add(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        only, for_version = options["only"] or CHECKS, options["for_version"]
        if for_version and "migrations" not in only:
            raise CommandError("--for needs the check migrations. Add --only migrations.", returncode=2)
        selected = checks(only, for_version=for_version)
        runner = Runner(
            selected,
            timeout=options["timeout"],
            max_age=0,
            explain=readiness.explain,
            attribute=root_cause.attribute,
        )
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
