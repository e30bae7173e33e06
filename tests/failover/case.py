"""Our server on a route, and one case: load, a fault, the recovery, the verdict."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.failover.cluster import Cluster, Template, wait_until
from tests.failover.faults import Fault, Scene
from tests.failover.load import DATABASE_TIMEOUT, Load
from tests.failover.routes import ROUTES, WORKERS, Route
from tests.failover.verdict import NOISE, WRITES_AGAIN, Verdict, judge
from tests.support.voiceassist_server import VoiceAssistServer

STEADY = 2.0  # seconds of load before a fault, and after the recovery


@contextmanager
def _served(route: Route) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(
        python=route.python,
        DATABASE_URL=route.url,
        DATABASE_TIMEOUT=str(DATABASE_TIMEOUT),
        DJANGO_SETTINGS_MODULE="tests.failover.settings",
        HEALTH_MAX_AGE="1.0",  # the default, which the tests otherwise change
        WEB_CONCURRENCY=str(WORKERS),
        WEB_THREADS=str(route.threads),
    ) as app:
        wait_until(lambda: len(app.workers()) == WORKERS and app.get("/ready")[0] == 200)
        yield app


def run_case(folder: Path, template: Template, route: str, happen: Callable[[Scene, Load], None]) -> Verdict:
    """Load a server on a fresh cluster, let something happen to that, and return what became of it."""
    with (
        Cluster(folder, template) as cluster,
        ROUTES[route](cluster, folder / "route") as way,
        _served(way) as app,
    ):
        workers = {worker.pid for worker in app.workers()}
        with Load(app.port, template.sessions) as load:
            time.sleep(STEADY)
            scene = Scene(cluster, way)
            happen(scene, load)
        same_workers = workers == {worker.pid for worker in app.workers()}
        return judge(cluster, load, scene.timeline, app.log(), same_workers=same_workers)


def break_and_go_on(scene: Scene, load: Load, fault: Fault) -> None:
    """Let a fault happen, and wait for the recovery from it and from what comes later of it."""
    with fault(scene):
        recovered = len(scene.timeline.marks)
        _go_on(scene, load)
    if len(scene.timeline.marks) > recovered:
        _go_on(scene, load)


def _go_on(scene: Scene, load: Load) -> None:
    """Wait until each client has written since the latest recovery, or until no hope is left. Then load a bit more."""
    load.wait_for_every_client(scene.timeline.marks[-1][0], seconds=WRITES_AGAIN + NOISE)
    time.sleep(STEADY)
