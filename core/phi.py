"""What a column may hold, and how what it holds is kept from being told.

A model declares each of its columns in one of four tuples; a system check refuses a column in none or in two.

    PHI        protected health information: masked everywhere, revealed in the admin by an audited act
    PERSONAL   who somebody is: shown to staff in the admin, never in a log, metric, trace, error answer or URL
    SECRET     a password's hash: never shown
    PLAIN      tells nothing of a person

What leaves the process on an error (Django's error reports, Sentry's events) goes without any value at all: a local
variable or an exception's message may hold whatever was in a row.
"""

import json
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register
from django.db.models import Model
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

MASK = "●●●●●●"
KINDS = ("PHI", "PERSONAL", "SECRET", "PLAIN")
ALWAYS_PLAIN = frozenset({"id", "created_at", "updated_at"})


def masked(value: Any) -> str:
    """Returns what may be shown in the place of `value`: how much there is of it."""
    if not value:
        return "(empty)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{MASK} ({len(text)} characters)"


def columns(model: type[Model], *kinds: str) -> list[str]:
    """Returns the names of the columns in the database that `model` declares to be of these kinds."""
    names = {name for kind in kinds for name in getattr(model, kind, ())}
    names |= ALWAYS_PLAIN if "PLAIN" in kinds else set()
    return [str(field.column) for field in model._meta.concrete_fields if field.name in names]


@register
def every_column_is_declared(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [error for model in apps.get_app_config("core").get_models() for error in undeclared(model)]


def undeclared(model: type[Model]) -> Iterable[CheckMessage]:
    for field in model._meta.concrete_fields:
        kinds = [kind for kind in KINDS if field.name in getattr(model, kind, ())]
        if len(kinds) == (0 if field.name in ALWAYS_PLAIN else 1):
            continue
        yield Error(
            f"{field} is declared in {' and '.join(kinds) or 'none'} of {', '.join(KINDS)}.",
            hint=f"Name it in exactly one of them at {model.__name__}: PHI, unless you know better.",
            obj=model,
            id="core.E001",
        )


class ReporterFilter(SafeExceptionReporterFilter):
    """Takes the values of local variables out of Django's error reports."""

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        return [(name, MASK) for name in tb_frame.f_locals]


class Reporter(ExceptionReporter):
    """Takes out the rest: all of the request, the exceptions' messages, the settings."""

    def __init__(self, request: Any, exc_type: Any, exc_value: Any, tb: Any, is_email: bool = False) -> None:
        super().__init__(None, exc_type, exc_value, tb, is_email)

    def get_traceback_data(self) -> dict[str, Any]:
        data = super().get_traceback_data()
        data |= {"exception_value": MASK, "exception_notes": "", "unicode_hint": "", "settings": {}}
        for frame in data["frames"]:
            frame["exc_cause"] = frame["exc_cause"] and type(frame["exc_cause"]).__name__
        return data


def before_send(event: dict[str, Any], hint: Any) -> dict[str, Any]:
    """Takes every value out of an event of Sentry's: pass it to `sentry_sdk.init` as `before_send`.

    What is left tells where it broke: types, files, lines, functions.
    """
    for key in ("request", "user", "breadcrumbs", "extra", "contexts", "logentry", "message", "transaction", "tags"):
        event.pop(key, None)
    for exception in event.get("exception", {}).get("values", ()):
        exception["value"] = MASK
        exception.pop("mechanism", None)
    threads = event.get("threads", {}).get("values", ())
    for holder in (*event.get("exception", {}).get("values", ()), *threads, event):
        for frame in (holder.get("stacktrace") or {}).get("frames", ()):
            frame.pop("vars", None)
    return event
