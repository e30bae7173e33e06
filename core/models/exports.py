"""Exports of a user's data, encrypted."""

from datetime import datetime, timedelta

from django.db import models

from core.models.base import BaseModel

MAX_EXPORT_AGE = timedelta(days=7)


class Export(BaseModel):
    """The data of a user, encrypted for a key that the application does not have. It is removed after seven days."""

    PERSONAL = ("recipient",)
    NON_SENSITIVE = ("user_id", "size", "finished_at")

    user_id = models.UUIDField()  # no foreign key, because an export outlives the user
    recipient = models.CharField(max_length=100)  # the public key, in the format of age: "age1…"
    size = models.PositiveBigIntegerField(default=0)  # bytes
    finished_at = models.DateTimeField(null=True)

    class Meta(BaseModel.Meta):
        db_table = "exports"
        default_permissions = ()
        permissions = (("export_user", "Can export the data of a user, encrypted for a key"),)

    @property
    def expires_at(self) -> datetime:
        return self.created_at + MAX_EXPORT_AGE


class ExportChunk(BaseModel):
    """A part of an encrypted export."""

    PHI = ("data",)
    NON_SENSITIVE = ("export", "number")

    # exports_chunk_once starts with this column, so a separate index would be redundant.
    export = models.ForeignKey(Export, on_delete=models.CASCADE, related_name="chunks", db_index=False)
    number = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta(BaseModel.Meta):
        db_table = "export_chunks"
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("export", "number"), name="exports_chunk_once"),)
