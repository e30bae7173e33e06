"""Edits of constants, of the rows of tables, of arguments and of slices."""

import ast
from collections.abc import Iterator, Sequence

from tests.mutants.source import Edit, Source

LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Keyword arguments and attributes that are text for people.
LABELS = {"description", "help", "help_text", "hint", "label", "short_description", "title", "verbose_name", "message"}


def edits(source: Source, node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Constant():
            if (text := _other_value(node.value)) is not None and not _is_left_out(source, node):
                yield source.replace(node, text)
                yield from without_each_word(source, node)
        case ast.JoinedStr() if not _is_left_out(source, node):
            yield source.replace(node, '"mutated"')
        case ast.List() | ast.Set() if isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            yield from _without_each(source, node.elts)
        case ast.Tuple() if _is_table(source, node):
            yield from _without_each(source, node.elts)
        case ast.Dict() if None not in node.keys:
            yield from _without_each_item(source, node)
        case ast.Call():
            yield from _without_keywords(source, node)
        case ast.Slice():
            yield from (source.replace(bound, "") for bound in (node.lower, node.upper, node.step) if bound)
        case ast.Lambda():
            yield source.replace(node.body, "None")


def _other_value(value: object) -> str | None:
    match value:
        case bool():
            return str(not value)
        case int() | float():
            return str(value + 1)
        case str():
            return '"mutated"'
        case bytes():
            return 'b"mutated"'
    return None


def _is_left_out(source: Source, node: ast.Constant | ast.JoinedStr) -> bool:
    """Return whether the constant is text for people, or whether another edit has the same effect."""
    parent = source.parents[node]
    if isinstance(node, ast.Constant) and not isinstance(node.value, str):
        # Without the argument the function uses its default, which is the opposite.
        return isinstance(node.value, bool) and isinstance(parent, ast.keyword)
    if isinstance(parent, ast.JoinedStr | ast.FormattedValue | ast.Expr):  # a part of another string, a docstring
        return True
    if isinstance(parent, ast.List | ast.Set | ast.Tuple) or isinstance(parent, ast.Dict) and node in parent.keys:
        return True  # removed as a whole
    if isinstance(parent, ast.keyword) and parent.arg in LABELS:
        return True
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    text = str(first.value) if isinstance(first, ast.Constant) else ""
    if " " in text.strip() and text[:1].isupper():
        return True
    for ancestor in source.ancestors(node):
        if isinstance(ancestor, ast.Raise):
            return True
        if isinstance(ancestor, ast.Call) and isinstance(ancestor.func, ast.Attribute):
            return ancestor.func.attr in LOG_METHODS and node in ancestor.args
        if isinstance(ancestor, ast.stmt):
            return False
    return False


def without_each_word(source: Source, node: ast.Constant) -> Iterator[Edit]:
    """Remove each name of a text that lists names of columns."""
    words = node.value.split() if isinstance(node.value, str) else []
    columns = [word for word in words if word == "id" or "_" in word]
    if len(words) > 1 and 2 * len(columns) >= len(words) and all(word.isidentifier() for word in words):
        for number, word in enumerate(words):
            rest = " ".join(words[:number] + words[number + 1 :])
            yield source.replace(node, repr(rest))._replace(before=f"{word} of {source.text(node)}", after="")


def _is_table(source: Source, node: ast.Tuple) -> bool:
    """Return whether the tuple is a collection, not several values of one statement."""
    parent = source.parents[node]
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Tuple):
        return False
    return isinstance(node.ctx, ast.Load) and not isinstance(parent, ast.Return | ast.Yield | ast.Subscript | ast.Dict)


def _without_each(source: Source, elements: Sequence[ast.expr]) -> Iterator[Edit]:
    for element in elements:
        rest = [source.text(other) for other in elements if other is not element]
        first, last = elements[0], elements[-1]
        texts = [", ".join(rest)] if len(rest) != 1 else [f"{rest[0]},", rest[0]]
        for text in texts:
            edit = Edit(source.start(first), source.end(last), text, source.text(element), "")
            if source.is_valid(edit):
                yield edit
                break


def _without_each_item(source: Source, node: ast.Dict) -> Iterator[Edit]:
    items = list(zip(node.keys, node.values, strict=True))
    texts = {key: f"{source.text(key)}: {source.text(value)}" for key, value in items if key}
    for key, text in texts.items():
        rest = ", ".join(other for other_key, other in texts.items() if other_key is not key)
        yield Edit(source.start(node), source.end(node), f"{{{rest}}}", text, "")


def _without_keywords(source: Source, node: ast.Call) -> Iterator[Edit]:
    if isinstance(node.func, ast.Name) and node.func.id == "dataclass":
        return  # `slots` and `frozen` change nothing unless code assigns to the attributes of an object
    arguments = sorted([*node.args, *node.keywords], key=source.start)
    for number, argument in enumerate(arguments):
        is_named = isinstance(argument, ast.keyword) and argument.arg and argument.arg not in LABELS
        is_suppressed = isinstance(node.func, ast.Name) and node.func.id == "suppress"
        if not (is_named or is_suppressed):
            continue
        if number:
            start, end = source.end(arguments[number - 1]), source.end(argument)
        elif len(arguments) > 1:
            start, end = source.start(argument), source.start(arguments[1])
        else:
            start, end = source.start(argument), source.end(argument)
        yield Edit(start, end, "", f"{source.text(node.func)}({source.text(argument)})", "")
