"""What the status page shows: what all workers of this server found, put together.

    collect       the template's context, of these:
    Verdict       of the server as a whole
    Dependency    a row with its Problems and its graph
    Worker        another row

Workers may disagree: one may have no file descriptor left. The page says how many say what.
"""

import platform
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import django
from django.conf import settings

from health.check_runner import Report
from health.checks import ENDPOINTS
from health.checks.failure_reasons import HINTS
from health.multiprocess import check_history as history
from health.multiprocess import draining
from health.multiprocess import worker_slots as workers
from health.multiprocess.check_history import moment, wall_clock
from health.status_page import sparkline as graph
from health.status_page.worker_states import Outage, Voice, hear, outages

WATCHED_FOR = 15.0  # seconds after the last look
_OUTAGES = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the whole server, in words, and how it looks: never by colour alone."""

    word: str
    means: str
    look: str  # well, look, bad
    mark: str


VERDICTS = {
    "ready": Verdict("Ready", "All that the server depends on is healthy.", "well", "✓"),
    "degraded": Verdict("Degraded", "The server works, without something optional.", "look", "!"),
    "not_ready": Verdict("Not ready", "The server can't do without what fails: /ready answers 503.", "bad", "✕"),
    "draining": Verdict(
        "Draining", "The server was told to stop: it finishes what is in flight, then ends.", "look", "!"
    ),
    "mixed": Verdict("Workers disagree", "Something fails for some of them and not for others.", "bad", "!"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What some workers say is wrong."""

    reason: str
    hint: str
    detail: str
    workers: int


@dataclass(frozen=True, slots=True)
class Dependency:
    name: str
    critical: bool
    asked: int  # workers whose word counts
    failing: int
    problems: tuple[Problem, ...]
    since: datetime
    latency_ms: float
    version: str | None
    where: str
    learnt: str  # by the check, beside where it is
    graph: graph.Graph

    @property
    def state(self) -> str:
        return "healthy" if not self.failing else "unhealthy" if self.failing == self.asked else "mixed"

    @property
    def words(self) -> str:
        return f"Unhealthy in {self.failing} of {self.asked} workers" if self.state == "mixed" else self.state.title()

    @property
    def look(self) -> str:
        return "well" if not self.failing else "bad" if self.critical else "look"

    @property
    def mark(self) -> str:
        return {"healthy": "✓", "unhealthy": "✕", "mixed": "!"}[self.state]


@dataclass(frozen=True, slots=True)
class Worker:
    pid: int
    born: datetime
    alive: bool
    checked: datetime | None
    found: str


def collect(report: Report) -> dict[str, Any]:
    """Returns the template's context."""
    voices = hear(report)
    failures = outages(voices)
    dependencies = [_dependency(result.name, voices, failures) for result in report.results]
    listed = [_worker(voice) for voice in voices if voice.seat.pid]
    alive = sum(worker.alive for worker in listed)
    trouble = [_failing(dependencies)]
    if alive < workers.configured():
        trouble.append(f"Workers live: {alive} of {workers.configured()}.")
    return {
        "verdict": VERDICTS[_overall([voice for voice in voices if voice.counts])],
        "trouble": " ".join(filter(None, trouble)),
        "dependencies": dependencies,
        "outages": failures[:_OUTAGES],
        "workers": listed,
        "alive": alive,
        "configured": workers.configured(),
        "server": {
            "version": settings.VERSION,
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "django": django.__version__,
            "began": moment(wall_clock(workers.began)),
        },
        "now": moment(time.time()),
        "minutes": history.BUCKET * history.BUCKETS // 60,
    }


def _worker(voice: Voice) -> Worker:
    born, checked = moment(wall_clock(voice.seat.born)), voice.account.checked
    if checked < voice.seat.born:
        return Worker(voice.seat.pid, born, voice.alive, None, "")
    failing = [f"{name}: {told.reason}" for name, told in voice.account.told.items() if told.reason]
    found = ", ".join(failing) or "all healthy"
    return Worker(voice.seat.pid, born, voice.alive, moment(wall_clock(checked)), found)


def _overall(speaking: list[Voice]) -> str:
    statuses = {voice.status for voice in speaking}
    return "draining" if draining.is_draining() else statuses.pop() if len(statuses) == 1 else "mixed"


def _failing(dependencies: list[Dependency]) -> str:
    """Returns what is not well in one sentence, "" if all is."""
    names = [
        f"{one.name} ({', '.join(problem.reason for problem in one.problems)})" for one in dependencies if one.failing
    ]
    return f"Not healthy: {', '.join(names)}." if names else ""


def _dependency(name: str, voices: list[Voice], failures: list[Outage]) -> Dependency:
    told = [voice.account.told[name] for voice in voices if voice.counts and name in voice.account.told]
    failing = [one for one in told if one.reason]
    shown = failing[0] if failing else told[0]
    where = ENDPOINTS[name]()
    problems = []
    for reason in dict.fromkeys(one.reason for one in failing if one.reason):
        same = [one for one in failing if one.reason == reason]
        problems.append(Problem(reason, HINTS[reason], same[0].detail, len(same)))
    # Nobody who saw it otherwise in the meantime may be overlooked: not even one who is gone.
    changes = [outage.ended or outage.began for outage in failures if outage.name == name]
    since = max([min(one.since for one in told if bool(one.reason) == bool(shown.reason)), *changes])
    return Dependency(
        name=name,
        critical=shown.critical,
        asked=len(told),
        failing=len(failing),
        problems=tuple(problems),
        since=moment(since),
        latency_ms=max(one.latency_ms for one in told),
        version=next((one.version for one in told if one.version), None),
        where=where,
        learnt="" if failing or shown.detail == where else shown.detail,
        graph=graph.draw(voice.account.buckets.get(name, {}) for voice in voices),
    )
