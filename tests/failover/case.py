"""Run one case: start the application on a route, apply load, inject a fault, wait for recovery, return a verdict."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.failover.cluster import Cluster, Template, wait_until
from tests.failover.faults import Fault, Scene
from tests.failover.load import DATABASE_TIMEOUT, Load
from tests.failover.routes import ROUTES, WORKERS, Route
from tests.failover.verdict import MAX_RECOVERY, TOLERANCE, Verdict, judge
from tests.support.dependency_servers import as_application
from tests.support.voiceassist_server import VoiceAssistServer

STEADY_SECONDS = 2.0  # of load before a fault, and after the recovery


@contextmanager
def _application(route: Route) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(
        python=route.python,
        DATABASE_URL=as_application(route.url),
        DATABASE_TIMEOUT=str(DATABASE_TIMEOUT),
        DJANGO_SETTINGS_MODULE="tests.failover.settings",
        HEALTH_MAX_AGE="1.0",  # the default; the other tests change it
        WEB_CONCURRENCY=str(WORKERS),
        WEB_THREADS=str(route.threads),
    ) as app:
        wait_until(lambda: len(app.workers()) == WORKERS and app.get("/ready")[0] == 200)
        yield app


def run_case(folder: Path, template: Template, route: str, inject_faults: Callable[[Scene, Load], None]) -> Verdict:
    """Run the load against a new cluster while `inject_faults` breaks it, and return the verdict."""
    with (
        Cluster(folder, template) as cluster,
        ROUTES[route](cluster, folder / "route") as selected_route,
        _application(selected_route) as app,
    ):
        workers = {worker.pid for worker in app.workers()}
        with Load(app.port, template.sessions) as load:
            time.sleep(STEADY_SECONDS)
            scene = Scene(cluster, selected_route)
            inject_faults(scene, load)
        same_workers = workers == {worker.pid for worker in app.workers()}
        extra = selected_route.extra_seconds
        return judge(cluster, load, scene.timeline, app.log(), same_workers=same_workers, extra_seconds=extra)


def break_and_recover(scene: Scene, load: Load, fault: Fault) -> None:
    """Inject a fault, and wait until the load recovers from it and from its aftermath."""
    with fault(scene):
        recovered = len(scene.timeline.marks)
        _wait_for_recovery(scene, load)
    if len(scene.timeline.marks) > recovered:
        _wait_for_recovery(scene, load)


def _wait_for_recovery(scene: Scene, load: Load) -> None:
    """Wait until each client has written since the latest recovery, or the limit has passed. Then continue the load."""
    load.wait_for_every_client(scene.timeline.marks[-1][0], seconds=MAX_RECOVERY + TOLERANCE)
    time.sleep(STEADY_SECONDS)
