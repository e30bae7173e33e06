"""Cursor (keyset) pagination by time. Reading a page takes the same time at any depth.

A cursor is the `created_at` and the `id` of a row. Rows are ordered by both, because rows can share a time.
"""

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from django.db.models import BooleanField, Model
from django.db.models.expressions import RawSQL

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BOOLEAN = BooleanField()  # shared, because creating one takes longer than building the rest of the condition


class Row(Protocol):
    id: UUID
    created_at: datetime


def ordering(newest_first: bool) -> tuple[str, str]:
    return ("-created_at", "-id") if newest_first else ("created_at", "id")


def cursor_of(row: Row) -> str:
    return encode_cursor(row.created_at, row.id)


def encode_cursor(created_at: datetime, key: UUID) -> str:
    """Return a cursor of 32 URL-safe characters."""
    packed = struct.pack(">q", (created_at - _EPOCH) // _MICROSECOND) + key.bytes
    return base64.urlsafe_b64encode(packed).decode()


def decode_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Return the time and the key. Raise ValueError for a string that `encode_cursor` cannot have returned."""
    try:
        packed = base64.b64decode(cursor, altchars=b"-_", validate=True)
        return _EPOCH + struct.unpack(">q", packed[:8])[0] * _MICROSECOND, UUID(bytes=packed[8:])
    except (binascii.Error, struct.error, OverflowError, UnicodeEncodeError):
        raise ValueError("invalid cursor") from None


def after_cursor(model: type[Model], cursor: str, newest_first: bool) -> RawSQL:
    """Return a condition for `filter` that selects the rows of `model` after the cursor. Raise ValueError if invalid.

    PostgreSQL uses a comparison of rows as an index condition that starts at the cursor. With
    `Q(created_at__lte=t) & (Q(created_at__lt=t) | Q(id__lt=k))` it reads and discards every row that shares the
    cursor's time: at the 10,000th of 20,000 such rows a page took 1.7 to 2 times as long. Row comparisons from
    TupleLessThan or Func made a page 5 to 13 % slower than this one.

    The condition names the table, so it can't be used in a subquery, in which Django gives the table an alias.
    """
    table, operator = model._meta.db_table, "<" if newest_first else ">"
    comparison = f'("{table}"."created_at", "{table}"."id") {operator} (%s, %s)'
    return RawSQL(comparison, decode_cursor(cursor), output_field=_BOOLEAN)
