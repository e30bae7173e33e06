"""Metrics of the backups: when the last one of each kind was made, and when one was verified.

After a success, the check `postgres` refreshes them together with the warnings about the database. They are 0 if there
has never been a backup, so that the alerts fire.
"""

from typing import Any

import psycopg
from prometheus_client import Gauge

KINDS = ("base", "dump", "qdrant", "wal")
_LAST_SUCCESS = Gauge(
    "voiceassist_backup_last_success_timestamp_seconds",
    "Time of the last complete backup of this kind; 0 if there is none. For wal, until when it has been copied.",
    ["kind"],
    multiprocess_mode="mostrecent",
)
_LAST_VERIFIED = Gauge(
    "voiceassist_backup_last_verified_timestamp_seconds",
    "Time of the last successful drill, which restored and checked a backup; 0 if there is none.",
    multiprocess_mode="mostrecent",
)
for _kind in KINDS:
    _LAST_SUCCESS.labels(_kind)

_EXISTS = "SELECT to_regclass('backups') IS NOT NULL"
_TIMES = """
    SELECT kind, extract(epoch FROM max(finished_at))::float8, extract(epoch FROM max(verified_at))::float8
    FROM backups GROUP BY kind
"""


def measure(connection: "psycopg.Connection[Any]") -> None:
    """Read the times from the table `backups`. Before it is migrated, they stay as they are."""
    row = connection.execute(_EXISTS).fetchone()
    if not (row and row[0]):
        return
    rows = {kind: (made, verified) for kind, made, verified in connection.execute(_TIMES).fetchall()}
    for kind in KINDS:
        _LAST_SUCCESS.labels(kind).set(rows.get(kind, (0, None))[0])
    _LAST_VERIFIED.set(max((verified or 0 for _, verified in rows.values()), default=0))
