"""The order of the test files: the slowest first, so that no process of `make test` is left with one at the end.

`--no-loadscope-reorder` in pyproject.toml keeps this order. By default pytest-xdist starts with the most tests, but the
files with few tests are the slow ones, because they start servers and wait for them.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
# More than ten seconds on two idle cores.
SLOWEST_FILES = (
    "ops/test_backup.py",
    "core/jobs/test_execution.py",
    "core/jobs/test_outages.py",
    "core/jobs/test_stop.py",
    "core/management/test_drill.py",
    "ops/test_major_version.py",
    "core/management/test_migrate_blocked.py",
    "security/test_logging_in.py",
    "voiceassist/test_embedded.py",
    "health/status_page/test_status_page.py",
    "health/test_readiness.py",
    "security/test_rotation.py",
    "voiceassist/test_run_worker.py",
    "pages/test_accessibility.py",
    "pages/test_tasks.py",
    "core/test_phi_canaries.py",
    "core/management/test_migrate.py",
    "core/management/test_migrate_rolling.py",
    "core/clients/postgresql/test_pgbouncer.py",
    "core/clients/test_redis_sentinel.py",
    "ops/test_rolling_restart.py",
    "ops/test_prometheus.py",
    "core/test_deletion_by_workers.py",
    "core/admin/test_display.py",
    "core/admin/test_permitted_links.py",
    "core/clients/postgresql/test_autocommit.py",
    "voiceassist/test_gunicorn_connections.py",
    "health/test_metrics.py",
    "health/management/test_checkdeps.py",
    "voiceassist/test_streams.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {TESTS / name: rank for rank, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
