"""Consecutive random faults against one server. After each failover the old primary becomes the standby."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failover.case import STEADY_SECONDS, break_and_recover, run_case
from tests.failover.cluster import Template
from tests.failover.faults import FAULTS, Scene
from tests.failover.load import Load
from tests.failover.packets import can_drop
from tests.failover.verdict import Verdict
from tests.support.haproxy import needs_haproxy


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("route", ["hosts", pytest.param("haproxy", marks=needs_haproxy)])
def test_survives_consecutive_random_faults(
    route: str,
    template: Template,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record: Callable[[str, str, Verdict], None],
) -> None:
    rounds, seed = request.config.getoption("--rounds"), request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    rng = random.Random(seed)
    faults = [name for name in FAULTS if name != "drop" or can_drop()]

    def inject_faults(scene: Scene, load: Load) -> None:
        for number in range(rounds):
            fault = rng.choice(faults)
            print(f"round {number + 1}, seed {seed}: {fault}", flush=True)
            primary = scene.cluster.primary
            time.sleep(rng.uniform(0, STEADY_SECONDS))
            break_and_recover(scene, load, FAULTS[fault])
            if scene.cluster.primary is not primary:
                scene.cluster.rebuild()

    verdict = run_case(tmp_path, template, route, inject_faults)
    record(f"{rounds} random faults, seed {seed}", route, verdict)
    assert verdict.violations() == []
