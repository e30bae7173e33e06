"""Prove that a backup can be restored: restore it into a throw-away PostgreSQL, and check what can be checked there.

    run.verify            all steps; `manage.py drill` and background jobs call it
    manifest.Manifest     what the backup says about itself
    throwaway             the server: its own data folder, reachable only by a socket in it, removed afterwards
    checks.CHECKS         the checks of the restored database

The scripts in `ops/backup` do the restoring, so that a drill proves exactly what an operator would run.
"""

from core.drill.manifest import DrillError
from core.drill.run import Outcome, newest_base_backup, record, verify

__all__ = ["DrillError", "Outcome", "newest_base_backup", "record", "verify"]
