"""What workers tell each other: whole texts only, whoever dies; bounded; and no probe's trouble."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from health.check_runner import Report, Result
from health.multiprocess import check_history as history
from health.multiprocess import worker_slots as workers
from health.multiprocess.check_history import Account
from health.status_page import context as status


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    def clean() -> None:
        for memory in (workers._states, workers._pages, workers._server):
            memory[:] = bytes(len(memory))
        workers._own = 0
        history.renew()
        history._shown = 0.0

    clean()
    yield
    clean()


_clock = [time.time()]


def report(reason: str | None = None, *, latency: float = 1.0, detail: str = "there", later: float = 1) -> Report:
    _clock[0] += later
    results = tuple(Result(name, True, latency, reason, detail) for name in ("postgres", "redis"))
    ended = time.monotonic() + min(0.0, _clock[0] - time.time())
    return Report(results, datetime.fromtimestamp(_clock[0], UTC), ended)


def account() -> Account:
    return history.read_account(workers.own())


def test_a_worker_killed_while_writing_leaves_whole_text() -> None:
    texts = [letter * size for letter, size in (("a", 10), ("b", 30_000), ("c", 500))]
    for _ in range(10):
        seat = workers.reserve()
        child = os.fork()
        if child == 0:
            try:
                workers.take(seat)
                while True:
                    for text in texts:
                        workers.write(text)
            finally:
                os._exit(1)
        while not any(found.text for found in workers.read()):
            time.sleep(0.001)
        time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        workers.leave(seat)
        (found,) = workers.read()
        assert found.text in texts
        assert found.pid == 0


def test_seats_are_given_again_and_never_run_out_of_bounds() -> None:
    seats = [workers.reserve() for _ in range(300)]
    assert seats[:256] == list(range(256))
    assert set(seats[256:]) == {None}
    workers.take(None)
    workers.write("nobody hears it")
    workers.beat()
    assert workers.own() == ""
    workers.leave(None)
    workers.leave(7)
    assert workers.reserve() == 7


def test_it_is_bounded_whatever_fails_how_often() -> None:
    for number in range(500):
        history.record(report("error" if number % 2 else None, detail=f"{number}" + "ü€" * 500))
    kept = account()
    assert len(kept.failures) == 8
    assert all(len(buckets) <= history.BUCKETS for buckets in kept.buckets.values())
    with pytest.raises(ValueError):
        workers.write("x" * 40_000)
    assert account() == kept


def test_a_report_without_news_is_told_once_a_second() -> None:
    history.record(report())
    shown = workers._number
    for _ in range(50):
        history.record(report())
    assert workers._number <= shown + 1
    history.record(report("timeout"))
    assert account().told["redis"].reason == "timeout"


def test_since_when_and_how_long() -> None:
    history.record(report())
    history.record(report("timeout"))
    began = _clock[0]
    history.record(report("timeout"))
    assert account().told["redis"].since == pytest.approx(began)
    history.record(report("connection_refused"))
    history.record(report())
    first, second = [failure for failure in account().failures if failure.name == "redis"]
    assert first.reason == "timeout"
    assert first.began == pytest.approx(began)
    assert first.ended == pytest.approx(second.began)
    assert second.ended == pytest.approx(_clock[0])


def test_a_successor_goes_on_where_its_predecessor_was() -> None:
    history.record(report())
    since = account().told["redis"].since
    history.renew()  # another process on the same seat
    history.record(report())
    history._shown = 0.0
    history.record(report())
    assert account().told["redis"].since == since


def sit(seat: int, told: Report, *, silent: float = 0) -> None:
    """Lets another worker tell this."""
    workers.take(seat)
    history.renew()
    history.record(told)
    pid = 100_000 + seat if seat else os.getpid()
    workers._set_state(seat, pid, told.ended - 100, time.monotonic() - silent)


def test_workers_that_disagree_are_counted() -> None:
    workers.configure(3)
    _clock[0] = time.time()
    well, ill = report(later=0), report("timeout", detail="has not answered", later=0)
    sit(0, well)
    sit(1, ill)
    sit(2, ill, silent=60)
    seen = status.collect(well)
    assert seen["verdict"].word == "Workers disagree"
    redis = seen["dependencies"][1]
    assert (redis.words, redis.problems[0].workers) == ("Unhealthy in 1 of 2 workers", 1)
    assert [worker.alive for worker in seen["workers"]] == [True, True, False]
    assert "Workers live: 2 of 3." in seen["trouble"]
    (outage,) = [outage for outage in seen["outages"] if outage.name == "redis"]
    assert outage.seats == {1, 2}


def test_an_old_word_does_not_count() -> None:
    _clock[0] = time.time() - 600
    sit(1, report("timeout"))
    _clock[0] = time.time()
    well = report(later=0)
    sit(0, well)
    seen = status.collect(well)
    assert seen["verdict"].word == "Ready"
    since = seen["dependencies"][1].since
    assert datetime.now(UTC) - since < timedelta(seconds=700)


def test_a_graph_has_a_bar_for_each_five_seconds() -> None:
    history.record(report(latency=3.0))
    history.record(report("timeout", latency=2000.0))
    sit(1, report(latency=5.0))
    drawn = status.collect(report(later=0))["dependencies"][1].graph
    assert drawn.failures.count("M") == 1
    assert drawn.words == "never healthy, failed for about 5 s"


def test_a_reused_report_counts_however_old_it_is() -> None:
    _clock[0] = time.time() - 60
    old = report("timeout", later=0)
    sit(0, old)
    assert status.collect(old)["verdict"].word == "Not ready"


@pytest.mark.django_db
def test_a_probe_does_not_mind_what_becomes_of_the_history(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(workers, "write", broken)
    with caplog.at_level(logging.ERROR, logger="voiceassist.readiness"):
        for _ in range(3):
            history._shown = 0.0
            assert client.get("/ready").status_code == 200
    assert len([record for record in caplog.records if "history" in record.getMessage()]) == 1
