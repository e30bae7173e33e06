"""Options and fixtures of the suite, and the table of measured times after it."""

import math
from collections.abc import Callable

import pytest

from tests.failover.cluster import Template
from tests.failover.load import CLIENTS
from tests.failover.verdict import Verdict

_ROWS = pytest.StashKey[list[tuple[str, str, Verdict]]]()
_HEAD = (
    "| fault | route | acknowledged | lost | duplicates | writes again | slowest request | slowest /health |"
    " /ready 503 after | /ready 200 again after | responses |"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=10, help="number of consecutive random faults against one server")
    parser.addoption(
        "--seed", type=int, default=None, help="seed that selects the faults; random by default, and printed"
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("template"), clients=CLIENTS)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, str, Verdict], None]:
    """Return a function that adds a row to the table printed at the end."""
    rows = request.config.stash.setdefault(_ROWS, [])

    def add(fault: str, route: str, verdict: Verdict) -> None:
        rows.append((fault, route, verdict))
        print(verdict)  # pytest shows this if the case fails

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    terminalreporter.section("measured, times in seconds")
    terminalreporter.write_line(_HEAD)
    terminalreporter.write_line("|" + " --- |" * (_HEAD.count("|") - 1))
    for fault, route, verdict in rows:
        terminalreporter.write_line(_row(fault, route, verdict))


def _row(fault: str, route: str, verdict: Verdict) -> str:
    cells = [
        fault,
        route,
        verdict.acknowledged,
        verdict.stored.lost,
        verdict.stored.duplicates,
        "never" if verdict.recovery_seconds == math.inf else f"{verdict.recovery_seconds:.1f}",
        f"{verdict.slowest_request:.1f}",
        f"{verdict.slowest_health:.2f}",
        "–" if verdict.not_ready_after is None else f"{verdict.not_ready_after:.1f}",
        f"{verdict.ready_after:.1f}",
        ", ".join(f"{count} × {status or 'none'}" for status, count in sorted(verdict.responses.items())),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
