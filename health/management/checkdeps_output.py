"""The output of `checkdeps`: an aligned table, wrapped on a terminal, one line per dependency in a pipe."""

import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from django.core.management.base import OutputWrapper
from django.core.management.color import Style, no_style

from core.management.progress import show_line
from health.check_runner import Report, Result
from health.checks.failure_reasons import HINTS
from health.templatetags.times import certificate

MIN_DESCRIPTION_WIDTH = 36  # with less, the description moves below its row


def write(report: Report, stdout: OutputWrapper, style: Style) -> None:
    """Write the table, without `style` if NO_COLOR is set (https://no-color.org)."""
    if os.environ.get("NO_COLOR"):
        style = no_style()
    width = shutil.get_terminal_size().columns if stdout.isatty() else None
    for line in _format(report, style, width):
        stdout.write(line)


def _format(report: Report, style: Style, width: int | None) -> Iterator[str]:
    latencies = [f"{result.latency_ms:.1f} ms" for result in report.results]
    name_width = max(len(result.name) for result in report.results)
    status_width = max(len(result.status) for result in report.results)
    latency_width = max(map(len, latencies))
    indent = name_width + status_width + latency_width + 3 * len("  ")
    for result, latency in zip(report.results, latencies, strict=True):
        colour = style.SUCCESS if result.healthy else style.ERROR if result.critical else style.WARNING
        # Pad first, because escape sequences count as characters.
        status = colour(result.status.ljust(status_width))
        row = f"{result.name:<{name_width}}  {status}  {latency:>{latency_width}}"
        description = _describe(result)
        if width is None:
            yield f"{row}  {' '.join(description)}"
        elif width - indent >= MIN_DESCRIPTION_WIDTH:
            first, *rest = _wrap(description, width - indent)
            yield f"{row}  {first}"
            yield from (" " * indent + line for line in rest)
        else:
            yield row
            yield from ("  " + line for line in _wrap(description, width - 2))
    colour = {"ready": style.SUCCESS, "degraded": style.WARNING}.get(report.status, style.ERROR)
    yield colour(report.status)


def _describe(result: Result) -> list[str]:
    """Return the version and endpoint, or what is wrong and what to do."""
    if result.cause:
        return [result.detail]
    if result.reason:
        optional = "" if result.critical else " (optional)"
        return [f"{result.reason}{optional}: {result.detail.rstrip('.')}.", f"Hint: {HINTS[result.reason]}"]
    where = f"{result.version} at {result.detail}" if result.version else result.detail
    where = f"{where} ({result.transport})" if result.transport else where
    return [", ".join(filter(None, (where, result.usage, certificate(result.certificate_expires_at))))]


def _wrap(paragraphs: list[str], width: int) -> list[str]:
    return [line for text in paragraphs for line in textwrap.wrap(text, max(1, width), break_on_hyphens=False)]


def _is_critical_failure(result: Result) -> bool:
    return result.critical and result.has_failed


def write_warnings(warnings: Iterable[str], stderr: OutputWrapper, style: Style) -> None:
    for warning in warnings:
        stderr.write(f"Warning: {warning}", style.WARNING)


@contextmanager
def progress(stderr: OutputWrapper) -> Iterator[Callable[[Report, float], None]]:
    """Yield a callback that displays the critical failures and, on a terminal, the seconds left."""
    is_terminal = stderr.isatty()
    last_failures = ""

    def report_progress(report: Report, seconds_left: float) -> None:
        nonlocal last_failures
        critical_failures = filter(_is_critical_failure, report.results)
        failures = ", ".join(f"{result.name} ({result.reason})" for result in critical_failures)
        with suppress(OSError):  # a full disk behind stderr must not end the wait
            if is_terminal:
                show_line(stderr, f"waiting {seconds_left:.0f} s for {failures}")
            elif failures != last_failures:
                stderr.write(f"waiting for {failures}")
        last_failures = failures

    try:
        yield report_progress
    finally:
        if is_terminal and last_failures:
            show_line(stderr, "")
