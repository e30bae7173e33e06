"""Random faults in a row on one living server: the old primary becomes the standby, and the next one breaks."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failover.case import STEADY, break_and_go_on, run_case
from tests.failover.cluster import Template
from tests.failover.faults import FAULTS, Scene
from tests.failover.load import Load
from tests.failover.packets import can_drop
from tests.failover.verdict import Verdict
from tests.support.haproxy import needs_haproxy


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("route", ["hosts", pytest.param("haproxy", marks=needs_haproxy)])
def test_rounds(
    route: str,
    template: Template,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record: Callable[[str, str, Verdict], None],
) -> None:
    rounds, seed = request.config.getoption("--rounds"), request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    chance = random.Random(seed)
    faults = [name for name in FAULTS if name != "drop" or can_drop()]

    def happen(scene: Scene, load: Load) -> None:
        for number in range(rounds):
            fault = chance.choice(faults)
            print(f"round {number + 1}, seed {seed}: {fault}", flush=True)
            primary = scene.cluster.primary
            time.sleep(chance.uniform(0, STEADY))
            break_and_go_on(scene, load, FAULTS[fault])
            if scene.cluster.primary is not primary:
                scene.cluster.rebuild()

    verdict = run_case(tmp_path, template, route, happen)
    record(f"{rounds} random ones, seed {seed}", route, verdict)
    assert verdict.wrong() == []
