"""What the surviving primary holds against what was acknowledged, and the measured times against the promised ones."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.failover.cluster import Cluster
from tests.failover.faults import Timeline
from tests.failover.load import CLIENTS, DATABASE_TIMEOUT, Acknowledged, Attempt, Load

WRITES_AGAIN, HEALTH, READY = 15.0, 1.0, 3.0  # seconds that are promised
NOISE = 1.0  # seconds that a busy machine may add to each
_MARGIN = 0.2  # seconds around a fault in which a request counts for neither side


@dataclass
class Stored:
    """How the surviving primary differs from what clients were told."""

    lost: int = 0
    duplicates: int = 0
    wrong_counts: int = 0
    out_of_order: int = 0


def read_stored(cluster: Cluster, acknowledged: list[Acknowledged]) -> Stored:
    """Compare, from the primary itself, every acknowledged message, every count and every client's order."""
    with psycopg.connect(cluster.primary.url) as connection:
        rows = connection.execute(
            "SELECT client_message_id, session_id, id::text, created_at FROM messages ORDER BY session_id, created_at"
        ).fetchall()
        counts = connection.execute("SELECT id, message_count FROM sessions").fetchall()
    of_session = Counter(session for _, session, _, _ in rows)
    times = {(key, session, message): moment for key, session, message, moment in rows}
    order: dict[tuple[int, Any], list[Any]] = defaultdict(list)
    found = Stored(duplicates=len(rows) - len({key for key, *_ in rows}))
    for one in acknowledged:
        moment = times.get((one.client_message_id, one.session, one.message_id))
        if moment is None:
            found.lost += 1
        else:
            order[one.client, one.session].append(moment)
    found.wrong_counts = sum(count != of_session[session] for session, count in counts)
    found.out_of_order = sum(moments != sorted(set(moments)) for moments in order.values())
    return found


_ROUTES = {"append", "append-in-transaction", "read/<uuid:session_id>"}  # of the load's requests, as the log has them


@dataclass
class Log:
    lines: int = 0
    stack_traces: int = 0
    extra_lines: int = 0  # of a request of the load, beyond its first one
    slowest: float = 0.0  # seconds that one took in the server, without its waiting for a thread


def read_log(text: str) -> Log:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    ours = {line["trace_id"] for line in lines if line.get("route") in _ROUTES}
    durations = [line["duration_ms"] / 1000 for line in lines if line.get("route") in _ROUTES]
    of_request = Counter(line["trace_id"] for line in lines if line.get("trace_id") in ours)
    return Log(
        lines=len(lines),
        stack_traces=sum(bool((line.get("error") or {}).get("frames")) for line in lines),
        extra_lines=sum(count - 1 for count in of_request.values()),
        slowest=max(durations, default=0.0),
    )


@dataclass
class Verdict:
    acknowledged: int
    stored: Stored
    log: Log
    same_workers: bool
    writes_again: float  # seconds after the end of the outage, until the last client wrote again
    slowest_request: float  # as its client measured it
    slowest_health: float
    slowest_ready: float
    ready_noticed: float | None  # seconds after the beginning of the outage; None: it ended before
    ready_recovered: float  # seconds after the end of the outage
    wrong_ready: int  # answers that were wrong for longer than may be
    acknowledged_in_outage: int
    without_retry_after: int  # answers with 503 to the load's requests
    answers: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def wrong(self, *, health_timeout: float = 2.0) -> list[str]:
        """Return what breaks a promise, in words."""
        facts = {
            f"{self.stored.lost} of {self.acknowledged} acknowledged messages are lost": self.stored.lost > 0,
            f"{self.stored.duplicates} messages are stored twice": self.stored.duplicates > 0,
            f"{self.stored.wrong_counts} sessions have a wrong message_count": self.stored.wrong_counts > 0,
            f"{self.stored.out_of_order} clients find their messages out of order": self.stored.out_of_order > 0,
            f"{self.acknowledged_in_outage} messages were acknowledged while none could be stored safely": (
                self.acknowledged_in_outage > 0
            ),
            f"not all clients wrote again within {WRITES_AGAIN:.0f} s": self.writes_again > WRITES_AGAIN + NOISE,
            f"a request took {self.log.slowest:.1f} s": self.log.slowest > DATABASE_TIMEOUT + NOISE,
            # Clients are not spread evenly over the workers. One may wait for a thread until another request has ended.
            f"a client waited for {self.slowest_request:.1f} s": self.slowest_request > 2 * DATABASE_TIMEOUT + NOISE,
            f"/health took {self.slowest_health:.1f} s": self.slowest_health > HEALTH + NOISE,
            f"/ready took {self.slowest_ready:.1f} s": self.slowest_ready > health_timeout + 0.25 + NOISE,
            f"/ready was wrong {self.wrong_ready} times for longer than {READY:.0f} s": self.wrong_ready > 0,
            "a worker was restarted": not self.same_workers,
            f"the log has {self.log.stack_traces} stack traces": self.log.stack_traces > 0,
            f"the log has {self.log.extra_lines} second lines of a request": self.log.extra_lines > 0,
            f"clients got other answers than 200 and 503: {dict(self.answers)}": not set(self.answers) <= {200, 503},
            f"{self.without_retry_after} answers with 503 have no Retry-After": self.without_retry_after > 0,
        }
        return [words for words, broken in facts.items() if broken]


def judge(cluster: Cluster, load: Load, timeline: Timeline, log: str, *, same_workers: bool) -> Verdict:
    ready = [probe for probe in load.probes if probe.path == "/ready"]
    outages, recoveries = timeline.intervals(False), timeline.intervals(True)[1:]
    noticed = [_noticed(ready, *outage) for outage in outages]
    return Verdict(
        acknowledged=len(load.acknowledged),
        stored=read_stored(cluster, load.acknowledged),
        log=read_log(log),
        same_workers=same_workers,
        writes_again=max(_writes_again(load, began) for began, _ in recoveries),
        slowest_request=max(attempt.seconds for attempt in load.requests),
        slowest_health=max(probe.seconds for probe in load.probes if probe.path == "/health"),
        slowest_ready=max(probe.seconds for probe in ready),
        ready_noticed=max((seconds for seconds in noticed if seconds is not None), default=None),
        ready_recovered=max(_recovered(ready, *recovery) for recovery in recoveries),
        wrong_ready=_wrong_ready(ready, timeline),
        acknowledged_in_outage=sum(_acknowledged_between(load, *outage) for outage in outages),
        without_retry_after=sum(attempt.status == 503 and not attempt.retry_after for attempt in load.requests),
        answers=Counter(attempt.status for attempt in load.requests),
        reasons=Counter(reason for probe in ready if probe.status == 503 for reason in _reasons(probe)),
    )


def _writes_again(load: Load, began: float) -> float:
    """Return the seconds from a recovery until each client had written again."""
    again = load.acknowledged_since(began)
    return max(again.values()) - began if len(again) == CLIENTS else math.inf


def _noticed(ready: list[Attempt], began: float, ended: float) -> float | None:
    """Return the seconds from the beginning of an outage until /ready said so; None if it was over before."""
    return next((probe.ended - began for probe in ready if began < probe.ended < ended and probe.status == 503), None)


def _recovered(ready: list[Attempt], began: float, ended: float) -> float:
    """Return the seconds from a recovery until /ready was well and stayed so."""
    return max(
        (probe.ended - began for probe in ready if began < probe.ended < ended and probe.status != 200), default=0
    )


def _acknowledged_between(load: Load, began: float, ended: float) -> int:
    return sum(
        attempt.status == 200
        and attempt.path.startswith("/append")
        and began + _MARGIN < attempt.began
        and attempt.ended < ended - _MARGIN
        for attempt in load.requests
    )


def _reasons(probe: Attempt) -> list[str]:
    report = json.loads(probe.body)["error"]["details"]["dependencies"]
    return [f"{name}: {found['reason']}" for name, found in report.items() if found["reason"]]


def _wrong_ready(ready: list[Attempt], timeline: Timeline) -> int:
    """Count the answers that disagree with what was true from READY seconds before the question to the answer."""
    wrong = 0
    for probe in ready:
        true = timeline.during(probe.began - READY - NOISE, probe.ended)
        if len(true) == 1 and true != {None}:
            wrong += probe.status != (200 if true == {True} else 503)
    return wrong
