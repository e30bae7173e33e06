"""The test files that `make test-slow` runs, slowest first, so that no process is left with a slow one at the end.

They start clusters, browsers, containers or hundreds of programs, or wait until time limits are over. The others take
two minutes together. `--no-loadscope-reorder` in pyproject.toml keeps this order. By default pytest-xdist starts with
the most tests, but files with few tests are the slow ones.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# More than about five seconds on two idle cores.
SLOW_FILES = (
    "tests/ops/test_backup.py",
    "tests/core/management/test_drill.py",
    "tests/core/jobs/test_execution.py",
    "tests/security/test_screen.py",
    "tests/pages/test_accessibility.py",
    "tests/voiceassist/test_gunicorn.py",
    "tests/core/clients/test_redis_sentinel.py",
    "tests/security/test_slow_clients.py",
    "tests/health/test_readiness.py",
    "tests/core/jobs/test_stop.py",
    "tests/health/status_page/test_status_page.py",
    "tests/core/management/test_migrate_blocked.py",
    "tests/core/jobs/test_outages.py",
    "tests/voiceassist/test_embedded.py",
    "tests/security/test_rotation.py",
    "tests/docs/test_readme.py",
    "tests/health/status_page/test_open_page.py",
    "tests/health/multiprocess/test_worker_stacks.py",
    "tests/security/test_audit_checkpoints.py",
    "tests/core/management/test_migrate_rolling.py",
    "tests/core/http/test_security_headers.py",
    "tests/ops/test_prometheus.py",
    "tests/health/management/test_checkdeps.py",
    "tests/core/admin/test_permitted_links.py",
    "tests/ops/test_rolling_restart.py",
    "tests/security/test_logging_in.py",
    "tests/mutants/test_mutations.py",
    "tests/core/management/test_migrate.py",
    "tests/voiceassist/test_run_worker.py",
    "tests/requirements/test_install.py",
    "tests/health/test_metrics.py",
    "tests/core/jobs/test_queue.py",
    "tests/core/admin/test_display.py",
    "tests/health/status_page/test_login.py",
    "tests/ops/test_containers.py",
    "tests/security/test_ended_logins.py",
    "tests/core/management/test_seed_demo.py",
    "tests/ops/test_major_version.py",
    "tests/core/test_phi_canaries.py",
    "tests/core/admin/test_invalid_values.py",
    "tests/voiceassist/test_streams.py",
    "tests/core/management/test_help.py",
    "tests/ops/test_alertmanager.py",
    "tests/security/test_links.py",
    "tests/voiceassist/test_error_reports.py",
    "tests/voiceassist/test_gunicorn_connections.py",
    "tests/pages/test_tasks.py",
    "tests/core/clients/postgresql/test_database_settings.py",
    "tests/security/test_second_factor.py",
    "tests/core/clients/postgresql/test_autocommit.py",
    "tests/core/clients/postgresql/test_connection.py",
    "tests/voiceassist/test_logs.py",
    "tests/core/test_lint_migrations.py",
    "tests/voiceassist/test_tracing.py",
    "tests/ops/test_alerts.py",
    "tests/health/checks/test_persistent_connection.py",
    "tests/ops/test_kubernetes_pod.py",
    "tests/core/clients/postgresql/test_pgbouncer.py",
    "tests/voiceassist/test_run.py",
    "tests/core/admin/test_phi_reveal.py",
    "tests/core/api/test_openapi.py",
    "tests/core/management/test_schema_compatibility.py",
    "tests/core/jobs/test_worker_command.py",
    "tests/core/jobs/test_backend.py",
    "tests/security/test_database_log.py",
    "tests/core/admin/test_keyboard_and_touch.py",
    "tests/core/jobs/test_schedule.py",
    "tests/core/test_deletion_by_workers.py",
    "tests/ops/test_edge.py",
    "tests/security/test_cookies.py",
)


@pytest.hookimpl(tryfirst=True)  # before pytest selects the tests by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / name: rank for rank, name in enumerate(SLOW_FILES)}
    for item in items:
        if item.path in ranks:
            item.add_marker("slow")
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
