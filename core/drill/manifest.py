"""The manifest of a backup, which `ops/backup/snapshot.sql` writes."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.migrations.loader import MigrationLoader


class DrillError(Exception):
    """The backup is not proven. The message says in one line what is wrong and what to do."""


@dataclass(frozen=True)
class Manifest:
    kind: str
    name: str
    product_version: str
    postgresql_version: str
    database: str
    schema: str
    superuser: str  # of the server that was backed up
    taken_at: datetime
    counts_lsn: str | None  # the position in the WAL with exactly these rows; None if transactions were running
    row_counts: dict[str, int]
    migrations: frozenset[str]
    last_audit_event: dict[str, Any] | None
    last_audit_checkpoint: dict[str, Any] | None

    @property
    def postgresql_major(self) -> str:
        return self.postgresql_version.split(".")[0]


def read(backup: Path) -> Manifest:
    """Return the manifest of a backup of PostgreSQL. Raise DrillError if it can't be verified with this code."""
    try:
        values = json.loads((backup / "manifest.json").read_text())
        if values["kind"] not in ("base", "dump"):
            raise DrillError(f"Backups of the kind {values['kind']} can't be verified. Give one in base/ or dump/.")
        manifest = Manifest(
            **{name: values[name] for name in Manifest.__annotations__ if name not in ("taken_at", "migrations")},
            taken_at=datetime.fromisoformat(values["taken_at"]),
            migrations=frozenset(values["migrations"]),
        )
    except FileNotFoundError:
        raise DrillError(f"{backup} has no manifest.json. Give the folder of a complete backup.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DrillError(f"manifest.json can't be read ({type(error).__name__}). Use another backup.") from None
    _refuse_newer(manifest)
    return manifest


def _refuse_newer(manifest: Manifest) -> None:
    unknown = manifest.migrations - known_migrations()
    if unknown or _parts(manifest.product_version) > _parts(settings.VERSION):
        reason = f", with the migration {min(unknown)}" if unknown else ""
        raise DrillError(
            f"The backup was made by version {manifest.product_version}{reason}, and this is version "
            f"{settings.VERSION}. Run the drill with the code of the newer version."
        )


def known_migrations() -> frozenset[str]:
    loader = MigrationLoader(None)
    return frozenset(f"{app}.{name}" for app, name in loader.disk_migrations)


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
