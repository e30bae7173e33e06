"""Each fault on each route: nothing that was acknowledged is lost, and everything goes on without a restart."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.failover.cluster import Cluster, Template, wait_until
from tests.failover.faults import FAULTS, Scene
from tests.failover.load import DATABASE_TIMEOUT, Load
from tests.failover.packets import can_drop
from tests.failover.routes import ROUTES, Route
from tests.failover.verdict import NOISE, WRITES_AGAIN, Verdict, judge
from tests.server import App
from tests.servers import needs_haproxy, needs_pgbouncer

STEADY = 2.0  # seconds of load before the fault, and after the recovery
_NEEDS = {"haproxy": [needs_haproxy], "pgbouncer": [needs_haproxy, needs_pgbouncer]}
CASES = [
    *((fault, route) for route in ("hosts", "haproxy", "pgbouncer") for fault in FAULTS if fault != "lost-both"),
    ("lost-both", "hosts"),
    ("switchover", "name"),
    ("freeze", "name"),
]


@contextmanager
def served(route: Route) -> Iterator[App]:
    with App(
        python=route.python,
        DATABASE_URL=route.url,
        DATABASE_TIMEOUT=str(DATABASE_TIMEOUT),
        DJANGO_SETTINGS_MODULE="tests.failover.settings",
        HEALTH_MAX_AGE="1.0",
        WEB_CONCURRENCY="2",
        WEB_THREADS="4",
    ) as app:
        wait_until(lambda: app.get("/ready")[0] == 200)
        yield app


def _pids(workers: list[psutil.Process]) -> set[int]:
    return {worker.pid for worker in workers}


def go_on(load: Load, scene: Scene) -> None:
    """Wait until all clients have written since the outage ended, or until no hope is left. Then load a bit more."""
    load.wait_for_every_client(scene.timeline.marks[-1][0], seconds=WRITES_AGAIN + NOISE)
    time.sleep(STEADY)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("fault", "route"),
    [pytest.param(*case, id="-".join(case), marks=_NEEDS.get(case[1], [])) for case in CASES],
)
def test_nothing_is_lost(
    fault: str, route: str, template: Template, tmp_path: Path, record: Callable[[str, str, Verdict], None]
) -> None:
    if fault == "drop" and not can_drop():
        pytest.skip("dropping packets needs root and iptables; CI has both")
    with Cluster(tmp_path, template) as cluster, ROUTES[route](cluster, tmp_path / "route") as way, served(way) as app:
        before = _pids(app.workers())
        with Load(app.port, template.sessions) as load:
            time.sleep(STEADY)
            scene = Scene(cluster, way)
            with FAULTS[fault](scene):
                go_on(load, scene)
            go_on(load, scene)
        same = before == _pids(app.workers())
        verdict = judge(cluster, load, scene.timeline, app.log(), same_workers=same)
    record(fault, route, verdict)
    assert verdict.wrong() == []
