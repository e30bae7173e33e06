"""Each fault on each route: no acknowledged message is lost, and the application recovers without a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failover.case import break_and_recover, run_case
from tests.failover.cluster import Template
from tests.failover.faults import FAULTS, Scene
from tests.failover.load import Load
from tests.failover.packets import needs_iptables
from tests.failover.verdict import Verdict
from tests.support.dependency_servers import needs_pgbouncer
from tests.support.haproxy import needs_haproxy

NEEDS = {
    "haproxy": [needs_haproxy],
    "haproxy_retries": [needs_haproxy],
    "pgbouncer": [needs_haproxy, needs_pgbouncer],
    "drop": [needs_iptables],
}
ONLY_HOSTS = ("lost-both", "unfenced")  # HAProxy uses Patroni, which always knows the one primary
CASES = [
    *((fault, route) for route in ("hosts", "haproxy", "pgbouncer") for fault in FAULTS if fault not in ONLY_HOSTS),
    *((fault, "hosts") for fault in ONLY_HOSTS),
    ("kill", "haproxy_retries"),
    ("switchover", "dns_name"),
    ("freeze", "dns_name"),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("fault", "route"),
    [pytest.param(*case, id="-".join(case), marks=sum((NEEDS.get(part, []) for part in case), [])) for case in CASES],
)
def test_no_acknowledged_message_is_lost(
    fault: str, route: str, template: Template, tmp_path: Path, record: Callable[[str, str, Verdict], None]
) -> None:
    def inject_fault(scene: Scene, load: Load) -> None:
        break_and_recover(scene, load, FAULTS[fault])

    verdict = run_case(tmp_path, template, route, inject_fault)
    record(fault, route, verdict)
    assert verdict.violations() == []
