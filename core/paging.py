"""Pages by cursor: a page goes on from a row, by index, so that the thousandth takes as long as the first.

A cursor is the time and the key of a row. Rows are ordered by both: two may have the same time.
"""

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from django.db.models import Q

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Row(Protocol):
    id: UUID
    created_at: datetime


def order(newest_first: bool) -> tuple[str, str]:
    return ("-created_at", "-id") if newest_first else ("created_at", "id")


def cursor(row: Row) -> str:
    return encode(row.created_at, row.id)


def encode(moment: datetime, key: UUID) -> str:
    """Returns 32 characters that can stand in a URL."""
    packed = struct.pack(">q", (moment - _EPOCH) // _MICROSECOND) + key.bytes
    return base64.urlsafe_b64encode(packed).decode()


def decode(text: str) -> tuple[datetime, UUID]:
    """Raises ValueError for anything that `encode` didn't return."""
    try:
        packed = base64.b64decode(text, altchars=b"-_", validate=True)
        return _EPOCH + struct.unpack(">q", packed[:8])[0] * _MICROSECOND, UUID(bytes=packed[8:])
    except (binascii.Error, struct.error, OverflowError, UnicodeEncodeError):
        raise ValueError("not a cursor") from None


def beyond(text: str, newest_first: bool) -> Q:
    """The rows after that of the cursor, in this order. Raises ValueError.

    The first condition says nothing new, but it is the one that PostgreSQL takes to the index.
    """
    moment, key = decode(text)
    if newest_first:
        return Q(created_at__lte=moment) & (Q(created_at__lt=moment) | Q(id__lt=key))
    return Q(created_at__gte=moment) & (Q(created_at__gt=moment) | Q(id__gt=key))
