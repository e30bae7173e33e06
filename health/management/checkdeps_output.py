"""How `checkdeps` tells a report: a table for a person at a terminal, plain aligned lines for whatever else reads it.

Rich is imported for a terminal only: in a pipe it would be a fifth of the command's time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from django.core.management.base import OutputWrapper
from django.core.management.color import Style

from health.check_runner import Report, Result
from health.checks.failure_reasons import HINTS

if TYPE_CHECKING:
    from rich.status import Status
    from rich.table import Table
    from rich.text import Text

_NARROW = 72  # columns of a terminal in which a table's last one would be a thread
_COLOURS = {"ready": "green", "degraded": "yellow", "not_ready": "red"}
_MARKS = {"ready": "✔", "degraded": "▲", "not_ready": "✘"}


def write(report: Report, stdout: OutputWrapper, style: Style, *, no_color: bool) -> None:
    if stdout.isatty():
        _show(report, no_color)
    else:
        for line in _lines(report, style):
            stdout.write(line)


def _lines(report: Report, style: Style) -> Iterator[str]:
    width = max(len(result.name) for result in report.results)
    for result in report.results:
        # Colours would count as characters: pad first.
        colour = style.SUCCESS if result.healthy else style.ERROR
        line = f"{result.name:<{width}}  {colour(f'{result.status:<9}')}  {result.latency_ms:8.1f} ms"
        yield f"{line}  {_what(result)}"
    colour = style.ERROR if report.status == "not_ready" else style.SUCCESS
    yield colour(report.status)


def _what(result: Result) -> str:
    if result.reason:
        optional = "" if result.critical else " (optional)"
        return f"{result.reason}{optional}: {result.detail}. Hint: {HINTS[result.reason]}"
    return f"{result.version} at {result.detail}" if result.version else result.detail


def _show(report: Report, no_color: bool) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(no_color=no_color or None, highlight=False)
    ascii_only = console.options.ascii_only
    if console.width >= _NARROW:
        console.print(_table(report, ascii_only))
    else:
        for result in report.results:
            console.print(*_head(result, ascii_only))
            console.print(Padding(_cell(result, ascii_only), (0, 0, 1, 2)))
    style = f"bold {_COLOURS[report.status]}"
    console.print(Text(f"  {_mark(report.status, ascii_only)}{report.status}", style), end="\n\n")


def _mark(state: str, ascii_only: bool) -> str:
    return "" if ascii_only else f"{_MARKS[state]} "


def _table(report: Report, ascii_only: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.ASCII2 if ascii_only else box.SIMPLE_HEAD, header_style="dim")
    table.add_column("dependency", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("latency", no_wrap=True, justify="right")
    table.add_column("what, and where", overflow="fold")
    for result in report.results:
        table.add_row(*_head(result, ascii_only), _cell(result, ascii_only))
    return table


def _head(result: Result, ascii_only: bool) -> "tuple[Text, Text, Text]":
    from rich.text import Text

    state = "ready" if result.healthy else "not_ready" if result.critical else "degraded"
    status = f"{_mark(state, ascii_only)}{result.status}"
    return Text(result.name, "bold"), Text(status, _COLOURS[state]), Text(f"{result.latency_ms:.1f} ms")


def _cell(result: Result, ascii_only: bool) -> "Text":
    from rich.text import Text

    if not result.reason:
        return Text.assemble((f"{result.version}  ", "cyan") if result.version else "", (result.detail, "dim"))
    optional = "" if result.critical else " (optional)"
    arrow = "->" if ascii_only else "→"
    colour = "red" if result.critical else "yellow"
    return Text.assemble(
        (f"{result.reason}{optional}\n", f"bold {colour}"),
        (f"{result.detail}\n", "dim"),
        f"{arrow} {HINTS[result.reason]}",
    )


@contextmanager
def progress(stderr: OutputWrapper) -> Iterator[Callable[[str, float], None]]:
    """Gives a function that is told, again and again, what is waited for and how many seconds are left."""
    told = ""
    spinner: Status | None = None

    def tell(text: str, left: float) -> None:
        nonlocal told, spinner
        if stderr.isatty() and spinner is None:
            from rich.console import Console

            console = Console(stderr=True)
            if console.is_interactive:
                spinner = stack.enter_context(console.status(""))
        if spinner:
            spinner.update(f"waiting for {text}, {left:.0f} s left")
        elif text != told:
            stderr.write(f"waiting for {text}")
            told = text

    with ExitStack() as stack:
        yield tell
