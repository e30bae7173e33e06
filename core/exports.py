"""Write a user's data as JSON, encrypted with age (https://age-encryption.org) for a key that only its owner has.

    write    for the command export_user, into a file
    store    for the job of the admin, into rows of `export_chunks`, which are removed after seven days

Memory is bounded: rows are read in pages, and pyrage encrypts 64 KiB at a time. PostgreSQL formats the JSON, so that
also values that Python can't load are exported exactly. The plain text exists in memory only.

`core.personal_data` says what is exported.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

import pyrage
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from core import audit, personal_data
from core.clients.postgresql.time_limit import request_time_limit
from core.jobs.progress import batch, current_job
from core.models import AuditEvent, Export, ExportChunk, Job, Message, User
from core.models.exports import MAX_EXPORT_AGE
from core.models.jobs import OBJECT_ID

CHUNK_SIZE = 1024 * 1024  # bytes


class Incomplete(Exception):
    """The user or messages were deleted before the export was finished."""


def users_being_exported(users: Iterable[UUID]) -> set[UUID]:
    """Return which of the users have an export that is queued or running. They must not be deleted meanwhile."""
    unfinished = Job.objects.filter(task="core.tasks.export_user", status__in=(Job.Status.QUEUED, Job.Status.RUNNING))
    about = unfinished.alias(object_id=OBJECT_ID).filter(object_id__in=[str(user) for user in users])
    return {key for job in about if (key := job.id_argument("user_id"))}


def parse_recipient(text: str) -> "pyrage.x25519.Recipient":
    """Return the public key. Raise ValidationError for another text, which is not repeated."""
    text = text.strip()
    if text.upper().startswith("AGE-SECRET-KEY-"):
        raise ValidationError(
            "This is a private key, which has to stay secret. Replace it, and enter its public key, which starts with "
            "age1.",
            code="private",
        )
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ValidationError(
            "Invalid key. Enter a public key of age, 62 characters that start with age1 (age-keygen -y prints it).",
            code="invalid",
        ) from None


def record(request: Any, user: User, recipient: str) -> None:
    """Record an export in the audit trail, before anything is written.

    The key itself is recorded, because it is public and as short as a fingerprint.
    """
    actor = request.user if request else None
    audit.record(AuditEvent.Action.EXPORT, request, user=actor, target=user, changes={"recipient": [None, recipient]})


def write(user: User, recipient: str, write_bytes: Callable[[bytes], Any], report: Callable[[int], Any]) -> None:
    """Encrypt the data of a user, and pass it to `write_bytes` in pieces. Pass numbers of messages to `report`.

    Raise Incomplete if data were deleted meanwhile, and what the database or `write_bytes` raises.
    """
    missing = Message.objects.filter(session__user=user).count()

    def count(messages: int) -> None:
        nonlocal missing
        missing -= messages
        report(messages)

    encrypt(personal_data.document(user), recipient, write_bytes, count)
    if missing > 0 or not User.objects.filter(pk=user.pk).exists():
        raise Incomplete


def encrypt(
    parts: Iterator[personal_data.Part],
    recipient: str,
    write_bytes: Callable[[bytes], Any],
    report: Callable[[int], Any],
) -> None:
    """Encrypt texts, and pass them to `write_bytes` in pieces. Pass the numbers that come with them to `report`."""
    stream = _Stream(parts, write_bytes, report)
    try:
        pyrage.encrypt_io(stream, stream, [parse_recipient(recipient)])
    except pyrage.EncryptError:
        if stream.error is None:
            raise
    if stream.error is not None:  # pyrage ignores an error of its last write
        raise stream.error from None


def store(export_id: UUID) -> None:
    """Store an export in chunks, as a job. It starts again after an interruption, because age can't continue a file.

    Raise what `write` raises.
    """
    job, chunk, chunks, messages = current_job(), bytearray(), 0, 0
    with batch():
        export = Export.objects.select_for_update().filter(pk=export_id, finished_at=None).first()
        if export is None:
            return
        user = User.objects.filter(pk=export.user_id).first()
        if user is None:
            raise Incomplete
        export.chunks.all().delete()
        job.total = Message.objects.filter(session__user=user).count()

    def store_chunk(**values: Any) -> None:
        nonlocal chunks
        with batch():
            # The foreign key refuses a chunk of an export that has been removed.
            ExportChunk.objects.create(export=export, number=chunks, data=bytes(chunk))
            # Only messages that no earlier attempt reached are progress. Otherwise a job that fails in the middle would
            # be tried for ever.
            job.done = max(job.done, messages)
            Export.objects.filter(pk=export_id).update(size=F("size") + len(chunk) if chunks else len(chunk), **values)
        chunks += 1
        chunk.clear()

    def write_bytes(data: bytes) -> None:
        chunk.extend(data)
        if len(chunk) >= CHUNK_SIZE:
            store_chunk()

    def report(count: int) -> None:
        nonlocal messages
        messages += count

    write(user, export.recipient, write_bytes, report)
    store_chunk(finished_at=Now())


def download(job: Job) -> Export | None:
    """Return the finished export of a job, None if there is none or if it has expired."""
    if key := job.id_argument("export_id"):
        not_expired = Q(created_at__gt=timezone.now() - MAX_EXPORT_AGE)
        return Export.objects.filter(not_expired, pk=key, finished_at__isnull=False).first()
    return None


def chunks_of(export: Export) -> Iterator[bytes]:
    """Yield the encrypted bytes. One chunk is in memory at a time.

    The server iterates after the middleware has returned, so each query has a time limit of its own.
    """
    chunks = ExportChunk.objects.filter(export=export).order_by("number")
    with request_time_limit(settings.DATABASE_TIMEOUT):
        keys = list(chunks.values_list("pk", flat=True))
    for key in keys:
        with request_time_limit(settings.DATABASE_TIMEOUT):
            data = ExportChunk.objects.values_list("data", flat=True).get(pk=key)
        yield bytes(data)


class _Stream(io.BufferedIOBase):
    """A file for pyrage: returns the document when it is read, and passes on what is written.

    pyrage puts the text of an exception into an exception of its own. The text could contain PHI, and a job has to know
    the class, so the first exception is kept.
    """

    error: BaseException | None = None

    def __init__(
        self, parts: Iterator[personal_data.Part], write_bytes: Callable[[bytes], Any], report: Callable[[int], Any]
    ) -> None:
        super().__init__()
        self._parts, self._write_bytes, self._report = parts, write_bytes, report
        self._buffer = b""

    def read(self, size: int | None = -1) -> bytes:
        try:
            while not self._buffer:
                text, messages = next(self._parts, (None, 0))
                if text is None:
                    return b""
                self._buffer = text.encode()
                if messages:
                    self._report(messages)
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        except BaseException as error:
            self.error = error
            raise

    def write(self, data: Any) -> int:
        if self.error is not None:  # pyrage writes the rest of its buffer after an error
            raise self.error
        try:
            self._write_bytes(data)
            return len(data)
        except BaseException as error:
            self.error = error
            raise
