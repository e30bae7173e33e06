"""The base class of the models."""

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class BaseModel(models.Model):
    """Primary key and timestamps. `created_at` can be set, so that imported rows keep their original time."""

    PHI: tuple[str, ...] = ()
    PERSONAL: tuple[str, ...] = ()
    SECRET: tuple[str, ...] = ()
    NON_SENSITIVE: tuple[str, ...] = ()

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        """Return the key only, because logs and tracebacks print this and the admin's history stores it."""
        return f"{self._meta.verbose_name} {self.pk}"
