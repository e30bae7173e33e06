"""`manage.py checkdeps`: the checks of `/ready`, for people, scripts and init containers."""

import json
import time
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from health import readiness
from health.checks import CHECKS, checks
from health.reasons import HINTS
from health.runner import Report, Result, Runner

_PAUSE = 0.5  # seconds between two tries


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
        runner = Runner(
            checks(options["only"] or CHECKS),
            timeout=options["timeout"],
            max_age=0,
            explain=readiness.explain,
        )
        try:
            report = self._wait(runner, options["wait"])
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, as shells say it
        if options["format"] == "json":
            self.stdout.write(json.dumps(readiness.as_dict(report, for_staff=True), indent=2))
        else:
            self._table(report)
        if report.status == "not_ready":
            raise SystemExit(1)

    def _wait(self, runner: Runner, wait: float) -> Report:
        end = time.monotonic() + wait
        told = ""
        while True:
            report = runner.report()
            if report.status != "not_ready" or time.monotonic() >= end:
                return report
            waiting_for = ", ".join(f"{r.name} ({r.reason})" for r in report.results if r.reason and r.critical)
            if waiting_for != told:
                self.stderr.write(f"waiting for {waiting_for}")
                told = waiting_for
            time.sleep(min(_PAUSE, max(0, end - time.monotonic())))

    def _table(self, report: Report) -> None:
        width = max(len(result.name) for result in report.results)
        for result in report.results:
            # Colours are only used on a terminal, and would count as characters: pad first.
            style = self.style.SUCCESS if result.healthy else self.style.ERROR
            line = f"{result.name:<{width}}  {style(f'{result.status:<9}')}  {result.latency_ms:8.1f} ms"
            self.stdout.write(f"{line}  {self._what(result)}")
        style = self.style.ERROR if report.status == "not_ready" else self.style.SUCCESS
        self.stdout.write(style(report.status))

    @staticmethod
    def _what(result: Result) -> str:
        if result.reason:
            optional = "" if result.critical else " (optional)"
            return f"{result.reason}{optional}: {result.detail}. Hint: {HINTS[result.reason]}"
        return (
            " ".join(part for part in (result.version, "at", result.detail) if part)
            if result.version
            else result.detail
        )
