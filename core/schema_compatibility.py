"""Which releases may run on the database.

A migration with which older servers can't work declares the oldest version that can, by the operation
`require_version`. It becomes part of the comment of the table `django_migrations`, in the transaction of the migration.
So no server sees one without the other, dumps contain it, and only the owner of the tables can change it. Readiness
reports `schema_too_new` in an older server, and `checkdeps --for VERSION` checks that before a rollback.
"""

import re

from django.db.migrations import RunSQL
from packaging.version import Version

_INTRODUCTION = "Oldest versions of VoiceAssist that the applied migrations allow:"
# For a query of django_migrations. NULL if no migration has declared a version.
COMMENT = "(SELECT obj_description('django_migrations'::regclass, 'pg_class'))"


def require_version(version: str) -> RunSQL:
    """Return an operation that declares the oldest version that can work with the database after this migration.

    To unapply it removes the declaration, so that those of earlier migrations count again.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"Not a released version: {version!r}. Use X.Y.Z.")
    pattern = version.replace(".", r"\.")
    return RunSQL(
        _set_comment(f"coalesce({COMMENT}, '{_INTRODUCTION}') || ' {version}'"),
        _set_comment(f"regexp_replace({COMMENT}, ' {pattern}$', '')"),
    )


def _set_comment(expression: str) -> str:
    return f"DO $$ BEGIN EXECUTE format('COMMENT ON TABLE django_migrations IS %L', {expression}); END $$"


def oldest_version(comment: str | None) -> Version | None:
    """Return the oldest version that may run on a database whose table has this comment, None if any version may."""
    introduction, _, versions = (comment or "").partition(_INTRODUCTION)
    if introduction or not versions.split():  # no comment, or one of somebody else
        return None
    return max(map(Version, versions.split()))
