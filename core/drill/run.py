"""The steps of a drill: restore, measure, check, and record the success."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from core.drill import checks, throwaway
from core.drill.manifest import DrillError, Manifest, read
from core.drill.throwaway import Server
from core.models import Backup

SCRIPTS = Path(settings.BASE_DIR) / "ops" / "backup"
Report = Callable[[str, float, str], None]  # name of a step, seconds, what it found


@dataclass(frozen=True)
class Outcome:
    manifest: Manifest
    size: int  # bytes
    recovery_seconds: float  # from the encrypted files to a server that accepts writes, without the checks
    data_age_seconds: float  # from the last restored change to the start of the drill


@dataclass
class _Clock:
    """Measure steps, report each one, and add up those that belong to the recovery."""

    report: Report
    recovery_seconds: float = field(default=0.0)

    @contextmanager
    def step(self, name: str, *, is_recovery: bool = False) -> Iterator[list[str]]:
        details: list[str] = []
        started_at = time.monotonic()
        yield details
        seconds = time.monotonic() - started_at
        self.recovery_seconds += seconds if is_recovery else 0
        self.report(name, seconds, ", ".join(details))


def verify(backup: Path, identity: Path, report: Report = lambda name, seconds, detail: None) -> Outcome:
    """Restore a backup into a throw-away server and check it. Raise DrillError at the first failure.

    `identity` is the file with age's private key. Nothing is recorded: call `record` with the outcome.
    """
    started_at, clock = datetime.now(UTC), _Clock(report)
    backup = backup.resolve()
    with clock.step("manifest") as details:
        manifest = read(backup)
        throwaway.check_programs(manifest)
        details.append(f"{manifest.kind} of {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC, {manifest.product_version}")
    with throwaway.temporary_folder() as folder:
        server = Server(folder / "restored", manifest)
        try:
            restore = _restore_base if manifest.kind == "base" else _restore_dump
            restored_until = restore(backup, identity.resolve(), server, manifest, clock)
            for name, check in checks.CHECKS:
                with clock.step(name) as details:
                    details.append(check(server, manifest))
        finally:
            server.stop()
    age = max(0.0, (started_at - restored_until).total_seconds())
    size = sum(file.stat().st_size for file in backup.iterdir())
    return Outcome(manifest, size, clock.recovery_seconds, age)


def _restore_base(backup: Path, identity: Path, server: Server, manifest: Manifest, clock: _Clock) -> datetime:
    """Recover to the position where the rows were counted, compare them there, then recover to the end of the WAL."""
    with clock.step("checksums, decryption", is_recovery=True):
        throwaway.run(SCRIPTS / "unpack.sh", backup, identity, server.folder, TMPDIR=str(server.folder.parent))
    if manifest.counts_lsn:
        target = {"recovery_target_lsn": manifest.counts_lsn, "recovery_target_inclusive": "off", "hot_standby": "on"}
        with clock.step("recovery to the counted rows", is_recovery=True):
            server.start(target, until="SELECT pg_get_wal_replay_pause_state() = 'paused'")
        with clock.step("row counts") as details:
            details.append(checks.row_counts(server, manifest))
        server.stop()
    else:
        with clock.step("row counts") as details:
            details.append("not compared, because transactions were running whenever the backup looked")
    with clock.step("recovery to the end of the WAL", is_recovery=True):
        server.start(until="SELECT NOT pg_is_in_recovery()")
    with server.connect() as connection:
        row = connection.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()
    last: Any = row and row[0]
    return last or manifest.taken_at


def _restore_dump(backup: Path, identity: Path, server: Server, manifest: Manifest, clock: _Clock) -> datetime:
    with clock.step("checksums, decryption, pg_restore", is_recovery=True):
        server.initialise()
        server.start(until="SELECT true")
        with server.connect(database="postgres") as connection:
            connection.execute(f'CREATE DATABASE "{manifest.database}"'.encode())
        throwaway.run(SCRIPTS / "restore.sh", backup, "--identity", identity, PGHOST=str(server.socket),
                      PGUSER=manifest.superuser, PGDATABASE=manifest.database,
                      TMPDIR=str(server.folder.parent), BACKUP_STAGING="")  # fmt: skip
    with clock.step("row counts") as details:
        details.append(checks.row_counts(server, manifest))
    return manifest.taken_at


def newest_base_backup(folder: Path) -> Path:
    """Return the newest complete base backup in BACKUP_DIR. Raise DrillError if there is none."""
    complete = sorted((folder / "base").glob("2*Z"))  # the name is the time; others are renamed when they are complete
    if not complete:
        raise DrillError(f"{folder} contains no base backup. Run ops/backup/backup.sh base.")
    return complete[-1]


def record(outcome: Outcome) -> None:
    """Record that a backup was verified, which moves `voiceassist_backup_last_verified_timestamp_seconds`."""
    manifest = outcome.manifest
    verified = {
        "verified_at": timezone.now(),
        "recovery_seconds": outcome.recovery_seconds,
        "data_age_seconds": outcome.data_age_seconds,
    }
    made = {
        "started_at": manifest.taken_at,
        "finished_at": manifest.taken_at,
        "size": outcome.size,
        "product_version": manifest.product_version,
    }
    Backup.objects.update_or_create(
        kind=manifest.kind, name=manifest.name, defaults=verified, create_defaults=made | verified
    )
