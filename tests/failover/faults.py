"""What breaks, and how it ends. Each fault is a context manager over a scene.

It enters once the outage is over as far as PostgreSQL is concerned: a standby is promoted and the route leads to it, or
the same servers are complete again. When the load has recovered it is left, and does what comes later: the old primary
comes back although nobody wants it, and is then fenced.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.failover.cluster import Cluster
from tests.failover.packets import dropped
from tests.failover.routes import Route

UNTIL_PROMOTED = 2.0  # seconds in which whoever watches the primary finds it gone
WITHOUT_STANDBY = 8.0  # seconds, more than DATABASE_TIMEOUT, so that clients are refused and retry
NAME_LAG = 3.0  # seconds after a promotion in which a name still leads to the old server
SPLIT_BRAIN = 3.0  # seconds in which two servers believe that they are the primary


@dataclass
class Timeline:
    """Whether the application can commit, from each moment on by time.monotonic(). None: it is changing just then."""

    marks: list[tuple[float, bool | None]] = field(default_factory=lambda: [(time.monotonic(), True)])

    def mark(self, writable: bool | None) -> None:
        self.marks.append((time.monotonic(), writable))

    def intervals(self, writable: bool) -> list[tuple[float, float]]:
        ends = [moment for moment, _ in self.marks[1:]] + [float("inf")]
        return [(began, end) for (began, state), end in zip(self.marks, ends, strict=True) if state is writable]

    def during(self, began: float, ended: float) -> set[bool | None]:
        """Return every state between two moments."""
        before = [state for moment, state in self.marks if moment <= began][-1:]
        return {*before, *(state for moment, state in self.marks if began < moment <= ended)}


@dataclass
class Scene:
    cluster: Cluster
    route: Route
    timeline: Timeline = field(default_factory=Timeline)


Fault = Callable[[Scene], AbstractContextManager[None]]


def _promote(scene: Scene, *, rejoin: bool = False) -> None:
    scene.timeline.mark(None)
    scene.cluster.promote()
    if rejoin:
        scene.cluster.rejoin()
    if scene.route.move:  # until then it leads to the old primary
        scene.timeline.mark(False)
        time.sleep(NAME_LAG)
        scene.route.move(scene.cluster.primary)
    scene.timeline.mark(True)


@contextmanager
def kill(scene: Scene) -> Iterator[None]:
    """SIGKILL of the primary."""
    scene.cluster.primary.kill()
    scene.timeline.mark(False)
    time.sleep(UNTIL_PROMOTED)
    _promote(scene)
    yield


@contextmanager
def freeze(scene: Scene) -> Iterator[None]:
    """SIGSTOP of the primary: its connections stay open and are silent. Later it runs again."""
    old = scene.cluster.primary
    old.freeze()
    scene.timeline.mark(False)
    time.sleep(UNTIL_PROMOTED)
    _promote(scene)
    yield
    scene.timeline.mark(None)
    old.thaw()
    _split_brain(scene)


@contextmanager
def drop(scene: Scene) -> Iterator[None]:
    """All packets to and from the primary are dropped. Later the network is whole again."""
    with dropped(scene.cluster.primary.address):
        scene.timeline.mark(False)
        time.sleep(UNTIL_PROMOTED)
        _promote(scene)
        yield
        scene.timeline.mark(None)
    _split_brain(scene)


def _split_brain(scene: Scene) -> None:
    """Let the application choose anew between the old and the new primary, then fence the old one."""
    with psycopg.connect(scene.cluster.primary.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    time.sleep(SPLIT_BRAIN)
    scene.cluster.standby.kill()
    scene.timeline.mark(True)


@contextmanager
def switchover(scene: Scene) -> Iterator[None]:
    """The primary is stopped in good order and comes back as a standby of the new one."""
    scene.cluster.primary.stop()
    scene.timeline.mark(False)
    _promote(scene, rejoin=True)
    yield


@contextmanager
def unfenced(scene: Scene) -> Iterator[None]:
    """The standby is cut off from the primary and promoted. Nothing stops the old primary, which can't commit any more.

    Both accept connections. Later the old one is fenced.
    """
    scene.timeline.mark(None)
    _promote(scene)
    yield
    scene.timeline.mark(None)
    scene.cluster.standby.kill()
    scene.timeline.mark(True)


@contextmanager
def lost_standby(scene: Scene) -> Iterator[None]:
    """The standby is gone, so commits on the primary wait. Then it comes back."""
    scene.cluster.standby.kill()
    scene.timeline.mark(False)
    time.sleep(WITHOUT_STANDBY)
    scene.timeline.mark(None)
    scene.cluster.standby.start()
    scene.cluster.wait_for_standby()
    scene.timeline.mark(True)
    yield


@contextmanager
def lost_both(scene: Scene) -> Iterator[None]:
    """The standby is gone, the primary crashes and is started again, then it is gone, too. The standby is promoted.

    What the primary wrote without its standby is lost with it. But after its crash it shows the commits that were
    waiting for the standby, and a client that sends such a message again must not be told that it is stored.
    """
    scene.cluster.standby.kill()
    scene.timeline.mark(False)
    time.sleep(WITHOUT_STANDBY / 2)
    scene.cluster.primary.kill()
    scene.cluster.primary.start()
    time.sleep(WITHOUT_STANDBY / 2)
    scene.cluster.primary.kill()
    scene.cluster.standby.start()
    _promote(scene)
    yield


@contextmanager
def restart(scene: Scene) -> Iterator[None]:
    """SIGKILL of the primary, which is then started again. Nothing is promoted."""
    scene.cluster.primary.kill()
    scene.timeline.mark(False)
    time.sleep(UNTIL_PROMOTED)
    scene.timeline.mark(None)
    scene.cluster.primary.start()
    scene.cluster.wait_for_standby()
    scene.timeline.mark(True)
    yield


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "freeze": freeze,
    "drop": drop,
    "switchover": switchover,
    "unfenced": unfenced,
    "restart": restart,
    "lost-standby": lost_standby,
    "lost-both": lost_both,
}
