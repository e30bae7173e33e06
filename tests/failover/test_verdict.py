"""What the log of a run has to contain, without a run."""

import json
from collections import Counter

import pytest

from tests.failover.verdict import Log, Stored, Verdict, read_log

ROUTES = ("append", "append-in-transaction", "read/<uuid:session_id>")


def log_of(routes: tuple[str, ...]) -> str:
    lines = [{"trace_id": f"t{number}", "route": route, "duration_ms": 1500} for number, route in enumerate(routes)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def verdict_of(log: Log, *, not_ready_after: float | None = None) -> Verdict:
    """Return the verdict on three requests that succeeded."""
    return Verdict(
        acknowledged=2,
        stored=Stored(),
        log=log,
        same_workers=True,
        recovery_seconds=1.0,
        slowest_request=1.5,
        slowest_health=0.1,
        slowest_ready=0.1,
        not_ready_after=not_ready_after,
        ready_after=1.0,
        wrong_ready=0,
        acknowledged_in_outage=0,
        extra_seconds=0.0,
        without_retry_after=0,
        responses=Counter({200: 3}),
    )


def test_log_with_one_line_for_each_request() -> None:
    log = read_log(log_of(ROUTES))
    assert log == Log(load_lines=3, slowest=1.5)
    assert verdict_of(log).violations() == []


def test_additional_line_of_a_request() -> None:
    log = read_log(log_of(ROUTES) + '{"trace_id": "t0", "error": {"frames": ["a frame"]}}\n')
    assert (log.load_lines, log.extra_lines, log.stack_traces) == (3, 1, 1)


@pytest.mark.parametrize("renamed", ROUTES)
def test_renamed_route(renamed: str) -> None:
    """Otherwise its requests would be missing in `slowest` and `extra_lines`."""
    log = read_log(log_of(ROUTES).replace(f'"{renamed}"', '"renamed"'))
    (violation,) = verdict_of(log).violations()
    assert violation == "the log has 2 lines of the load, which are fewer than its requests"


def test_renamed_field() -> None:
    assert len(verdict_of(read_log(log_of(ROUTES).replace('"route"', '"path"'))).violations()) == 1


def test_ready_that_notices_an_outage_too_late() -> None:
    log = read_log(log_of(ROUTES))
    assert verdict_of(log, not_ready_after=2.0).violations() == []
    (violation,) = verdict_of(log, not_ready_after=100.0).violations()
    assert violation == "/ready did not return 503 until 100.0 s after the start of an outage"
