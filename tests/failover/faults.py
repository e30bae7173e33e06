"""The faults. Each is a context manager.

Entering it breaks the cluster and repairs it: the standby is promoted and the route leads to it, or both servers run
again. Leaving it, once the load has recovered, causes the aftermath: the old primary comes back unexpectedly, and is
then fenced.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.failover.cluster import Cluster
from tests.failover.packets import dropped
from tests.failover.routes import Route

UNTIL_PROMOTED = 2.0  # seconds until a failover manager would detect the loss of the primary
WITHOUT_STANDBY = 8.0  # seconds, longer than DATABASE_TIMEOUT, so that requests fail and clients retry
NAME_LAG = 3.0  # seconds after a promotion during which the DNS name still leads to the old server
SPLIT_BRAIN = 3.0  # seconds during which both servers act as the primary


@dataclass
class Timeline:
    """Times (time.monotonic()) from which the application can or cannot commit, or None during a transition."""

    marks: list[tuple[float, bool | None]] = field(default_factory=lambda: [(time.monotonic(), True)])

    def mark(self, writable: bool | None) -> None:
        self.marks.append((time.monotonic(), writable))

    def intervals(self, writable: bool) -> list[tuple[float, float]]:
        ends = [timestamp for timestamp, _ in self.marks[1:]] + [float("inf")]
        return [(start, end) for (start, state), end in zip(self.marks, ends, strict=True) if state is writable]

    def during(self, start: float, end: float) -> set[bool | None]:
        """Return every state between `start` and `end`."""
        before = [state for timestamp, state in self.marks if timestamp <= start][-1:]
        return {*before, *(state for timestamp, state in self.marks if start < timestamp <= end)}


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
    if scene.route.move:  # until then the name leads to the old primary
        scene.timeline.mark(False)
        time.sleep(NAME_LAG)
        scene.route.move(scene.cluster.primary)
    scene.timeline.mark(True)


@contextmanager
def kill(scene: Scene) -> Iterator[None]:
    """Kill the primary with SIGKILL and promote the standby."""
    scene.cluster.primary.kill()
    scene.timeline.mark(False)
    time.sleep(UNTIL_PROMOTED)
    _promote(scene)
    yield


@contextmanager
def freeze(scene: Scene) -> Iterator[None]:
    """Stop the primary with SIGSTOP, so that its connections hang, and promote the standby. Later it continues."""
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
    """Drop all packets to and from the primary, and promote the standby. Later the network works again."""
    with dropped(scene.cluster.primary.address):
        scene.timeline.mark(False)
        time.sleep(UNTIL_PROMOTED)
        _promote(scene)
        yield
        scene.timeline.mark(None)
    _split_brain(scene)


def _split_brain(scene: Scene) -> None:
    """Make the application reconnect while both primaries run, then fence the old one."""
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
    """Shut the primary down cleanly, promote the standby, and restart the old primary as its standby."""
    scene.cluster.primary.stop()
    scene.timeline.mark(False)
    _promote(scene, rejoin=True)
    yield


@contextmanager
def unfenced(scene: Scene) -> Iterator[None]:
    """Promote the standby while the old primary still runs, and fence the old primary later.

    Both accept connections, but the old one can't commit without its standby.
    """
    scene.timeline.mark(None)
    _promote(scene)
    yield
    scene.timeline.mark(None)
    scene.cluster.standby.kill()
    scene.timeline.mark(True)


@contextmanager
def lost_standby(scene: Scene) -> Iterator[None]:
    """Kill the standby, so that commits on the primary wait, and restart it later."""
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
    """Kill the standby, kill and restart the primary, kill the primary for good, and promote the restarted standby.

    Everything that the primary wrote without its standby is lost. After its restart the primary shows commits that were
    waiting for the standby, but a retry of such a message must not be acknowledged.
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
    """Kill the primary with SIGKILL and restart it. The standby is not promoted."""
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
