"""Read values of a row as the text that PostgreSQL stores.

Python can't load every JSON value that PostgreSQL accepts. It raises RecursionError for 990 nested levels, and
ValueError for an integer of more than 4,300 digits. `append_message` refuses such values, but other code may have
stored them.
"""

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from django.db.models import Expression, JSONField, Model, QuerySet, TextField, Value
from django.db.models.functions import Cast, Left, Length, NullIf

from core.models.fields import MAX_JSON_DEPTH, is_deeper_than

# Longer JSON is not indented, because each line is indented by its depth: 2 MB at depth 100 would become 200 MB.
_MAX_INDENTED_CHARACTERS = 50_000
_MAX_GROWTH = 10  # JSON that indenting makes longer than this many times is shown as it is


def stored_texts(row: Model, names: Sequence[str]) -> dict[str, str]:
    """Return the values of fields as text, "" for an empty value, by the names of the fields."""
    return {name: text or "" for name, text in _evaluate(row, {name: _as_text(type(row), name) for name in names})}


def stored_lengths(row: Model, names: Sequence[str]) -> dict[str, int]:
    """Return the lengths of the texts that `stored_texts` would return, without loading them."""
    return {
        name: length or 0
        for name, length in _evaluate(row, {name: Length(_as_text(type(row), name)) for name in names})
    }


def with_excerpts(rows: QuerySet, names: Sequence[str], max_characters: int) -> QuerySet:
    """Load the beginnings of the texts that `stored_texts` would return, instead of the values. See `excerpts_of`."""
    excerpts = {f"{name}_excerpt": Left(_as_text(rows.model, name), max_characters + 1) for name in names}
    loaded: QuerySet = rows.defer(*names).annotate(**excerpts)
    return loaded


def excerpts_of(row: Model, names: Sequence[str], max_characters: int) -> dict[str, tuple[str, bool]]:
    """Return the beginnings of the texts of a row of `with_excerpts` and whether they were cut, by field names."""
    texts = {name: getattr(row, f"{name}_excerpt") or "" for name in names}
    return {name: (text[:max_characters], len(text) > max_characters) for name, text in texts.items()}


def indented(text: str) -> str:
    """Return JSON with one line per value, or unchanged if it is too long, too deep or not exact in Python."""
    if len(text) > _MAX_INDENTED_CHARACTERS:
        return text
    try:
        value = json.loads(text, parse_float=_exact_float)
    except (ValueError, RecursionError):
        return text
    if is_deeper_than(MAX_JSON_DEPTH, value):
        return text
    lines = json.dumps(value, indent=2, ensure_ascii=False)
    return lines if len(lines) <= _MAX_GROWTH * len(text) else text


def _exact_float(text: str) -> float:
    number = float(text)
    if Decimal(repr(number)) != Decimal(text):
        raise ValueError("The number has more digits than a float.")
    return number


def _as_text(model: type[Model], name: str) -> Expression:
    text: Expression = Cast(name, TextField())
    if isinstance(model._meta.get_field(name), JSONField):
        for empty in ("{}", "[]"):
            text = NullIf(text, Value(empty, TextField()))
    return text


def _evaluate(row: Model, expressions: dict[str, Expression]) -> Iterable[tuple[str, Any]]:
    """Return the values of expressions, or None for each if the row has been deleted."""
    values = type(row)._default_manager.filter(pk=row.pk).values_list(*expressions.values()).first()
    return zip_longest(expressions, values or ())
