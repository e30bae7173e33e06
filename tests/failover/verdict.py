"""Compare the messages on the surviving primary with those acknowledged, and measured times with the promised ones."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.failover.cluster import Cluster
from tests.failover.faults import Timeline
from tests.failover.load import CLIENTS, DATABASE_TIMEOUT, Acknowledged, Attempt, Load
from tests.support.polling import SLOWNESS

# Promised limits in seconds: until all clients write again, for /health, and until /ready is correct.
MAX_RECOVERY, MAX_HEALTH, MAX_READY_LAG = 15.0, 1.0, 3.0
TOLERANCE = 1.0 * SLOWNESS  # seconds that a busy machine may add to each
_MARGIN = 0.2  # seconds around a fault during which requests are ignored


@dataclass
class Stored:
    """Differences between the surviving primary and the acknowledgements to clients."""

    lost: int = 0
    duplicates: int = 0
    wrong_counts: int = 0
    out_of_order: int = 0


def read_stored(cluster: Cluster, acknowledged: list[Acknowledged]) -> Stored:
    """Compare the primary's rows with every acknowledged message, every count and every client's order."""
    with psycopg.connect(cluster.primary.url) as connection:
        rows = connection.execute(
            "SELECT client_message_id, session_id, id::text, created_at FROM messages ORDER BY session_id, created_at"
        ).fetchall()
        counts = connection.execute("SELECT id, message_count FROM sessions").fetchall()
    counts_by_session = Counter(session for _, session, _, _ in rows)
    times = {(key, session, message): created_at for key, session, message, created_at in rows}
    order: dict[tuple[int, Any], list[Any]] = defaultdict(list)
    stored = Stored(duplicates=len(rows) - len({key for key, *_ in rows}))
    for item in acknowledged:
        created_at = times.get((item.client_message_id, item.session, item.message_id))
        if created_at is None:
            stored.lost += 1
        else:
            order[item.client, item.session].append(created_at)
    stored.wrong_counts = sum(count != counts_by_session[session] for session, count in counts)
    stored.out_of_order = sum(times_in_order != sorted(set(times_in_order)) for times_in_order in order.values())
    return stored


_ROUTES = {"append", "append-in-transaction", "read/<uuid:session_id>"}  # routes of the load's requests in the log


@dataclass
class Log:
    load_lines: int = 0  # log lines of the load's requests
    stack_traces: int = 0
    extra_lines: int = 0  # log lines with the trace id of one of these, beyond one per request
    slowest: float = 0.0  # seconds in the server, excluding the wait for a thread


def read_log(text: str) -> Log:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    load_ids = {line["trace_id"] for line in lines if line.get("route") in _ROUTES}
    durations = [line["duration_ms"] / 1000 for line in lines if line.get("route") in _ROUTES]
    lines_by_request = Counter(line["trace_id"] for line in lines if line.get("trace_id") in load_ids)
    return Log(
        load_lines=len(durations),
        stack_traces=sum(bool((line.get("error") or {}).get("frames")) for line in lines),
        extra_lines=sum(count - 1 for count in lines_by_request.values()),
        slowest=max(durations, default=0.0),
    )


@dataclass
class Verdict:
    acknowledged: int
    stored: Stored
    log: Log
    same_workers: bool
    recovery_seconds: float  # from the end of the outage until every client had written again
    slowest_request: float  # as its client measured it
    slowest_health: float
    slowest_ready: float
    not_ready_after: float | None  # seconds after the start of the outage; None if it ended earlier
    ready_after: float  # seconds after the end of the outage
    wrong_ready: int  # responses of /ready that were wrong for longer than promised
    acknowledged_in_outage: int
    extra_seconds: float  # that the route may add to the slowest request
    without_retry_after: int  # 503 responses to the load's requests without Retry-After
    responses: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def violations(self, *, health_timeout: float = 2.0) -> list[str]:
        """Return a description of each broken promise."""
        checks = {
            f"{self.stored.lost} of {self.acknowledged} acknowledged messages are lost": self.stored.lost > 0,
            f"{self.stored.duplicates} messages are stored twice": self.stored.duplicates > 0,
            f"{self.stored.wrong_counts} sessions have a wrong message_count": self.stored.wrong_counts > 0,
            f"{self.stored.out_of_order} clients have messages out of order": self.stored.out_of_order > 0,
            f"{self.acknowledged_in_outage} messages were acknowledged while none could be stored safely": (
                self.acknowledged_in_outage > 0
            ),
            f"not all clients wrote again within {MAX_RECOVERY:.0f} s": (
                self.recovery_seconds > MAX_RECOVERY + TOLERANCE
            ),
            f"the log has {self.log.load_lines} lines of the load, which are fewer than its requests": (
                self.log.load_lines < self.responses.total() - self.responses[0]
            ),
            f"a request took {self.log.slowest:.1f} s": (
                self.log.slowest > DATABASE_TIMEOUT + self.extra_seconds + TOLERANCE
            ),
            # Clients are not spread evenly over workers, so one may wait until another request has released its thread.
            f"a client waited for {self.slowest_request:.1f} s": (
                self.slowest_request > 2 * DATABASE_TIMEOUT + TOLERANCE
            ),
            f"/health took {self.slowest_health:.1f} s": self.slowest_health > MAX_HEALTH + TOLERANCE,
            f"/ready took {self.slowest_ready:.1f} s": self.slowest_ready > health_timeout + 0.25 + TOLERANCE,
            f"/ready did not return 503 until {self.not_ready_after or 0.0:.1f} s after the start of an outage": (
                (self.not_ready_after or 0.0) > MAX_READY_LAG + self.extra_seconds + TOLERANCE
            ),
            f"/ready was wrong {self.wrong_ready} times for longer than {MAX_READY_LAG:.0f} s": self.wrong_ready > 0,
            "a worker was restarted": not self.same_workers,
            f"the log has {self.log.stack_traces} stack traces": self.log.stack_traces > 0,
            f"the log has {self.log.extra_lines} additional lines for requests": self.log.extra_lines > 0,
            f"clients got responses other than 200 and 503: {dict(self.responses)}": (
                not set(self.responses) <= {200, 503}
            ),
            f"{self.without_retry_after} responses with 503 have no Retry-After": self.without_retry_after > 0,
        }
        return [description for description, is_broken in checks.items() if is_broken]


def judge(
    cluster: Cluster, load: Load, timeline: Timeline, log: str, *, same_workers: bool, extra_seconds: float
) -> Verdict:
    ready = [probe for probe in load.probes if probe.path == "/ready"]
    outages, recoveries = timeline.intervals(False), timeline.intervals(True)[1:]
    not_ready_delays = [_not_ready_after(ready, *outage) for outage in outages]
    return Verdict(
        acknowledged=len(load.acknowledged),
        stored=read_stored(cluster, load.acknowledged),
        log=read_log(log),
        same_workers=same_workers,
        recovery_seconds=max(_recovery_seconds(load, start) for start, _ in recoveries),
        slowest_request=max(attempt.seconds for attempt in load.requests),
        slowest_health=max(probe.seconds for probe in load.probes if probe.path == "/health"),
        slowest_ready=max(probe.seconds for probe in ready),
        not_ready_after=max((seconds for seconds in not_ready_delays if seconds is not None), default=None),
        ready_after=max(_ready_after(ready, *recovery) for recovery in recoveries),
        wrong_ready=_wrong_ready(ready, timeline, MAX_READY_LAG + extra_seconds),
        extra_seconds=extra_seconds,
        acknowledged_in_outage=sum(_acknowledged_between(load, *outage) for outage in outages),
        without_retry_after=sum(attempt.status == 503 and not attempt.retry_after for attempt in load.requests),
        responses=Counter(attempt.status for attempt in load.requests),
        reasons=Counter(reason for probe in ready if probe.status == 503 for reason in _reasons(probe)),
    )


def _recovery_seconds(load: Load, since: float) -> float:
    """Return the seconds from a recovery until each client had written again."""
    first = load.acknowledged_since(since)
    return max(first.values()) - since if len(first) == CLIENTS else math.inf


def _not_ready_after(ready: list[Attempt], start: float, end: float) -> float | None:
    """Return the seconds from the start of an outage until /ready returned 503, or None if the outage ended earlier."""
    return next(
        (probe.finished_at - start for probe in ready if start < probe.finished_at < end and probe.status == 503),
        None,
    )


def _ready_after(ready: list[Attempt], start: float, end: float) -> float:
    """Return the seconds from a recovery until /ready returned only 200."""
    return max(
        (probe.finished_at - start for probe in ready if start < probe.finished_at < end and probe.status != 200),
        default=0,
    )


def _acknowledged_between(load: Load, start: float, end: float) -> int:
    return sum(
        attempt.status == 200
        and attempt.path.startswith("/append")
        and start + _MARGIN < attempt.started_at
        and attempt.finished_at < end - _MARGIN
        for attempt in load.requests
    )


def _reasons(probe: Attempt) -> list[str]:
    report = json.loads(probe.body)["error"]["details"]["dependencies"]
    return [f"{name}: {dependency['reason']}" for name, dependency in report.items() if dependency["reason"]]


def _wrong_ready(ready: list[Attempt], timeline: Timeline, lag: float) -> int:
    """Count responses of /ready that contradict a state that held from `lag` seconds before the request."""
    wrong = 0
    for probe in ready:
        states = timeline.during(probe.started_at - lag - TOLERANCE, probe.finished_at)
        if len(states) == 1 and states != {None}:
            wrong += probe.status != (200 if states == {True} else 503)
    return wrong
