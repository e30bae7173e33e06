"""The options of the suite, what its cases share, and the table of measured times at its end."""

import math
from collections.abc import Callable

import pytest

from tests.failover.cluster import Template
from tests.failover.load import CLIENTS
from tests.failover.verdict import Verdict

_ROWS = pytest.StashKey[list[tuple[str, str, Verdict]]]()
_HEAD = (
    "| fault | route | acknowledged | lost | duplicates | writes again | slowest request | slowest /health |"
    " /ready 503 after | /ready 200 again after | answers |"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=10, help="random faults in a row on one living server")
    parser.addoption("--seed", type=int, default=None, help="which ones; a random seed otherwise, which is printed")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("template"), clients=CLIENTS)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, str, Verdict], None]:
    """Adds a row to the table that is printed at the end."""
    rows = request.config.stash.setdefault(_ROWS, [])

    def add(fault: str, route: str, verdict: Verdict) -> None:
        rows.append((fault, route, verdict))
        print(verdict)  # shown where the case fails

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
        "never" if verdict.writes_again == math.inf else f"{verdict.writes_again:.1f}",
        f"{verdict.slowest_request:.1f}",
        f"{verdict.slowest_health:.2f}",
        "–" if verdict.ready_noticed is None else f"{verdict.ready_noticed:.1f}",
        f"{verdict.ready_recovered:.1f}",
        ", ".join(f"{count} × {status or 'none'}" for status, count in sorted(verdict.answers.items())),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
