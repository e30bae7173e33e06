"""Pages by cursor: a page goes on from a row, by index, so that the thousandth takes as long as the first.

A cursor is the time and the key of a row. Rows are ordered by both: two may have the same time.
"""

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from django.db.models import BooleanField
from django.db.models.expressions import Expression

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Row(Protocol):
    id: UUID
    created_at: datetime


def ordering(newest_first: bool) -> tuple[str, str]:
    return ("-created_at", "-id") if newest_first else ("created_at", "id")


def cursor_of(row: Row) -> str:
    return encode_cursor(row.created_at, row.id)


def encode_cursor(moment: datetime, key: UUID) -> str:
    """Returns 32 characters that can stand in a URL."""
    packed = struct.pack(">q", (moment - _EPOCH) // _MICROSECOND) + key.bytes
    return base64.urlsafe_b64encode(packed).decode()


def decode_cursor(text: str) -> tuple[datetime, UUID]:
    """Raises ValueError for anything that `encode_cursor` didn't return."""
    try:
        packed = base64.b64decode(text, altchars=b"-_", validate=True)
        return _EPOCH + struct.unpack(">q", packed[:8])[0] * _MICROSECOND, UUID(bytes=packed[8:])
    except (binascii.Error, struct.error, OverflowError, UnicodeEncodeError):
        raise ValueError("not a cursor") from None


class _Beyond(Expression):
    """The rows beyond another one: both columns compared at once, which PostgreSQL takes to the index as it stands.

    The same by `Q` or `TupleLessThan` takes an eighth of the time of a whole page, to build.
    """

    conditional = True
    output_field = BooleanField()

    def __init__(self, moment: datetime, key: UUID, newest_first: bool) -> None:
        super().__init__()
        self.values, self.sign, self.table = (moment, key), "<" if newest_first else ">", ""

    def resolve_expression(self, query: Any = None, *args: Any, **kwargs: Any) -> "_Beyond":
        return self.relabeled_clone({"": query.get_initial_alias()})

    def relabeled_clone(self, change_map: Any) -> "_Beyond":
        clone = self.copy()
        clone.table = change_map.get(self.table, self.table)
        return clone

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        table = connection.ops.quote_name(self.table)
        return f"({table}.created_at, {table}.id) {self.sign} (%s, %s)", self.values


def after_cursor(text: str, newest_first: bool) -> _Beyond:
    """The rows after that of the cursor, in this order, as a condition for `filter`. Raises ValueError."""
    return _Beyond(*decode_cursor(text), newest_first)
