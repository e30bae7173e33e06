"""What the workers of this server say, each for itself, and the failures that they saw together.

Voice       a worker with its account, and whether its word counts
Outage      failures of one dependency for one reason, at one time, whoever saw them
"""

import os
import time
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from health.check_runner import Report
from health.multiprocess import check_history as history
from health.multiprocess import worker_slots as workers
from health.multiprocess.check_history import Account, moment, wall_clock

# Seconds. While the page is open, workers check every two.
_SILENT_AFTER = 6
_OLD_AFTER = 15


@dataclass(frozen=True, slots=True)
class Voice:
    seat: workers.Seat
    account: Account
    alive: bool
    counts: bool  # it told something lately, and lives

    @property
    def status(self) -> str:
        failing = [told.critical for told in self.account.told.values() if told.reason]
        return "not_ready" if any(failing) else "degraded" if failing else "ready"


@dataclass(slots=True)
class Outage:
    """Failures of one dependency for one reason that workers saw at the same time."""

    name: str
    reason: str
    detail: str
    began: float
    ended: float | None
    seats: set[int]  # of the workers

    @property
    def first(self) -> datetime:
        return moment(self.began)

    @property
    def last(self) -> datetime | None:
        return moment(self.ended) if self.ended else None


def hear(report: Report) -> list[Voice]:
    """Returns the voice of every seat. `report` is this process's, just made: it counts, even if it was not heard."""
    voices = [_voice(seat) for seat in workers.read()]
    if not any(voice.counts and voice.seat.pid == os.getpid() for voice in voices):
        alone = workers.Seat(-1, os.getpid(), workers.began, time.monotonic(), "")
        voices = [voice for voice in voices if voice.seat.pid != alone.pid]
        voices.append(Voice(alone, history.account_of(report), alive=True, counts=True))
    return voices


def _voice(seat: workers.Seat) -> Voice:
    """What stands on a seat from before its worker was born is its predecessor's: history, but no word of its own."""
    now, account = time.monotonic(), history.read_account(seat.text)
    alive = seat.pid == os.getpid() or (seat.pid > 0 and now - seat.beat < _SILENT_AFTER + settings.HEALTH_TIMEOUT)
    old_after = _OLD_AFTER + settings.HEALTH_TIMEOUT + settings.HEALTH_MAX_AGE
    return Voice(seat, account, alive, alive and account.checked >= seat.born and now - account.checked < old_after)


def outages(voices: list[Voice]) -> list[Outage]:
    """Returns the last failures, latest first, each once however many workers saw it."""
    found: list[Outage] = []
    seen = [(failure, voice) for voice in voices for failure in voice.account.failures]
    for failure, voice in sorted(seen, key=lambda pair: pair[0].began):
        # A worker that is gone can't tell when it was over: it was when it last looked.
        ended = failure.ended if failure.ended or voice.seat.pid else wall_clock(voice.account.checked)
        for outage in found:
            same = outage.name == failure.name and outage.reason == failure.reason
            if same and (outage.ended is None or failure.began <= outage.ended + _OLD_AFTER):
                outage.ended = None if outage.ended is None or ended is None else max(outage.ended, ended)
                outage.seats.add(voice.seat.number)
                break
        else:
            seats = {voice.seat.number}
            found.append(Outage(failure.name, failure.reason, failure.detail, failure.began, ended, seats))
    return found[::-1]
