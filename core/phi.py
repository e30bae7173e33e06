"""Classify the columns of models by sensitivity, and remove values from error reports.

A model lists each of its columns in exactly one of four tuples, which a system check enforces:

    PHI             protected health information: masked everywhere; revealing it in the admin is audited
    PERSONAL        identifies a person: shown to staff in the admin, never in a log, metric, trace, error or URL
    SECRET          a password hash, or a key or code of the second factor: never shown
    NON_SENSITIVE   reveals nothing about a person

Error reports (Django's and Sentry's) contain no values at all, because a local variable or an exception's message may
contain any value of a row.
"""

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register
from django.db.models import Field, Model
from django.utils.html import format_html
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

MASK = "●●●●●●"
KINDS = ("PHI", "PERSONAL", "SECRET", "NON_SENSITIVE")
SIZES = {"short": 50, "medium": 500, "long": 5_000}  # characters at most; longer texts are "very long"
ALWAYS_NON_SENSITIVE = frozenset({"id", "created_at", "updated_at"})


def masked(length: int) -> str:
    """Return a mask that may be shown instead of a text of this length.

    The exact length would distinguish short answers: "yes" from "no", "HIV" from "asthma".
    """
    if length == 0:
        return "(empty)"
    size = next((name for name, limit in SIZES.items() if length <= limit), "very long")
    return f"{MASK} ({size})"


def masked_html(length: int) -> str:
    return with_text_alternative(masked(length))


def with_text_alternative(text: str) -> str:
    """Return a text that may have a mask, as HTML in which screen readers read "hidden" instead of its symbols."""
    html = '<span aria-hidden="true">{}</span><span class="visually-hidden">{}</span>'
    return format_html(html, text, text.replace(MASK, "hidden")) if MASK in text else text


def stored_fields(model: type[Model]) -> list[Field]:
    """Return the fields of `model` that are columns of its table, in the order of their definition."""
    return [field for field in model._meta.get_fields() if isinstance(field, Field) and not field.many_to_many]


def columns(model: type[Model], *kinds: str) -> list[str]:
    """Return the database names of the columns that `model` declares as one of `kinds`."""
    names = {name for kind in kinds for name in getattr(model, kind, ())}
    names |= ALWAYS_NON_SENSITIVE if "NON_SENSITIVE" in kinds else set()
    return [str(field.column) for field in stored_fields(model) if field.name in names]


@register
def check_declarations(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [error for model in apps.get_app_config("core").get_models() for error in declaration_errors(model)]


def declaration_errors(model: type[Model]) -> Iterable[CheckMessage]:
    for field in stored_fields(model):
        kinds = [kind for kind in KINDS if field.name in getattr(model, kind, ())]
        if len(kinds) == (0 if field.name in ALWAYS_NON_SENSITIVE else 1):
            continue
        yield Error(
            f"{field} is declared in {' and '.join(kinds) or 'none'} of {', '.join(KINDS)}.",
            hint=f"List it in exactly one of them in {model.__name__}. If in doubt, declare it as PHI.",
            obj=model,
            id="core.E001",
        )


class ReporterFilter(SafeExceptionReporterFilter):
    """Mask the values of local variables in Django's error reports."""

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> Any:
        return [(name, MASK) for name in tb_frame.f_locals]


class Reporter(ExceptionReporter):
    """Remove the request, the messages of exceptions and the settings from Django's error reports."""

    def __init__(self, request: Any, exc_type: Any, exc_value: Any, tb: Any, is_email: bool = False) -> None:
        super().__init__(None, exc_type, exc_value, tb, is_email)

    def get_traceback_data(self) -> dict[str, Any]:
        data = super().get_traceback_data()
        data |= {"exception_value": MASK, "exception_notes": "", "unicode_hint": "", "settings": {}}
        for frame in data["frames"]:
            frame["exc_cause"] = frame["exc_cause"] and type(frame["exc_cause"]).__name__
        return data


_EVENT_KEYS = ("event_id", "timestamp", "platform", "level", "release", "environment", "server_name", "sdk")
_FRAME_KEYS = ("filename", "abs_path", "module", "function", "lineno", "in_app")


def before_send(event: Any, hint: Any) -> Any:
    """Return a copy of a Sentry event without any value. It is the `before_send` of `voiceassist.error_reports`.

    The types of the exceptions and the files, lines and functions of their stack traces remain. Everything else is left
    out, so that a new version of the SDK can't add what nobody has examined.
    """
    kept = {key: event[key] for key in _EVENT_KEYS if key in event}
    kept["exception"] = {"values": [_exception(value) for value in event.get("exception", {}).get("values", ())]}
    return kept


def _exception(exception: Any) -> dict[str, Any]:
    frames = (exception.get("stacktrace") or {}).get("frames", ())
    return {
        "type": exception.get("type"),
        "module": exception.get("module"),
        "value": MASK,
        "stacktrace": {"frames": [{key: frame[key] for key in _FRAME_KEYS if key in frame} for frame in frames]},
    }
