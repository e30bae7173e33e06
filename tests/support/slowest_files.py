"""The order of the test files: the slowest first, so that no process of `make test` is left with one at the end.

`--no-loadscope-reorder` in pyproject.toml keeps this order. By default pytest-xdist starts with the most tests, but the
files with few tests are the slow ones, because they start servers and wait for them.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# More than ten seconds on two idle cores.
SLOWEST_FILES = (
    "tests/ops/test_backup.py",
    "tests/core/jobs/test_execution.py",
    "tests/core/jobs/test_outages.py",
    "tests/core/jobs/test_stop.py",
    "tests/core/management/test_drill.py",
    "tests/ops/test_major_version.py",
    "tests/core/management/test_migrate_blocked.py",
    "tests/security/test_logging_in.py",
    "tests/voiceassist/test_embedded.py",
    "tests/health/status_page/test_status_page.py",
    "tests/health/test_readiness.py",
    "tests/security/test_rotation.py",
    "tests/voiceassist/test_run_worker.py",
    "tests/pages/test_accessibility.py",
    "tests/pages/test_tasks.py",
    "tests/core/test_phi_canaries.py",
    "tests/core/management/test_migrate.py",
    "tests/core/management/test_migrate_rolling.py",
    "tests/core/clients/postgresql/test_pgbouncer.py",
    "tests/core/clients/test_redis_sentinel.py",
    "tests/ops/test_rolling_restart.py",
    "tests/ops/test_prometheus.py",
    "tests/core/test_deletion_by_workers.py",
    "tests/core/admin/test_display.py",
    "tests/core/admin/test_permitted_links.py",
    "tests/core/clients/postgresql/test_autocommit.py",
    "tests/voiceassist/test_gunicorn_connections.py",
    "tests/health/test_metrics.py",
    "tests/health/management/test_checkdeps.py",
    "tests/voiceassist/test_streams.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / name: rank for rank, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
