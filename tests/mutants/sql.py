"""Edits of the SQL in migrations: what a trigger fires for, its conditions, its tables.

What Django generates (fields, indexes) is left out, because `makemigrations --check` compares it with the models.
"""

import ast
import re
from collections.abc import Iterator

from tests.mutants import literals
from tests.mutants.source import Edit, Source

IS_SQL = re.compile(r"\b(SELECT|CREATE|ALTER|INSERT|UPDATE|DELETE|CHECK|SET|NEW|OLD)\b")
# Pattern and replacement. A pattern that matches several times gives several mutants.
EDITS = (
    (r"INSERT OR ", ""),
    (r"UPDATE OR (?!.* OF )", ""),
    (r"OR DELETE\b", ""),
    (r"OR UPDATE\b(?: OF [\w, ]+)?", ""),
    (r"ENABLE ALWAYS TRIGGER", "ENABLE TRIGGER"),
    (r"\bAND\b", "OR"),
    (r"\bOR\b(?! (?:INSERT|UPDATE|DELETE|REPLACE))", "AND"),
    (r"\bIS NOT DISTINCT\b", "IS DISTINCT"),
    (r"\bIS DISTINCT\b", "IS NOT DISTINCT"),
    (r"\bIS NOT NULL\b", "IS NULL"),
    (r"\bIS NULL\b", "IS NOT NULL"),
    (r"\bIS NOT TRUE\b", "IS TRUE"),
    (r"\bNOT (?=\w+\.)", ""),
    (r"(?<= )(?<!ERRCODE )(?<!search_path )(?<!_timeout )=(?= )", "<>"),
    (r"(?<= )<>(?= )", "="),
    (r"(?<= )>(?= )", ">="),
    (r"\bgreatest\b", "least"),
    (r"RAISE EXCEPTION [^;]+;", "NULL;"),
    (r"RETURN NEW;", "RETURN NULL;"),
    (r"\bBEFORE\b(?= (?:INSERT|UPDATE|DELETE|TRUNCATE))", "AFTER"),
    (r"FOR EACH ROW", "FOR EACH STATEMENT"),
    (r"(?<!IS )NOT NULL", ""),
    (r"(?<=[ (+])1\b", "2"),
    (r"\w+\(OLD\) - ", "to_jsonb(OLD) || "),
    (r"SET search_path = %I, pg_temp", "SET search_path = pg_temp, %I"),
)


def edits(source: Source, node: ast.AST) -> Iterator[Edit]:
    if any(_is_generated(ancestor) for ancestor in (node, *source.ancestors(node))):
        return
    if isinstance(node, ast.Constant | ast.JoinedStr) and not isinstance(source.parents[node], ast.JoinedStr):
        yield from _of_text(source, node)
    elif isinstance(node, ast.Tuple | ast.List | ast.Dict):
        generated = {source.text(child) for child in ast.iter_child_nodes(node) if _is_generated(child)}
        yield from (edit for edit in literals.edits(source, node) if edit.before not in generated)


def _is_generated(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="migrations"), attr=name)):
            return name not in ("RunSQL", "RunPython")
    return _assigns(node, "dependencies") or _assigns(node, "ACTIONS")  # ACTIONS are the choices of a field


def _assigns(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def _is_backwards(source: Source, node: ast.AST) -> bool:
    """Return whether the text is SQL that undoes the migration. It has a name such as SESSIONS_BEFORE."""
    parent = source.parents[node]
    return isinstance(parent, ast.Assign) and source.text(parent.targets[0]).endswith("_BEFORE")


def _of_text(source: Source, node: ast.expr) -> Iterator[Edit]:
    text = source.text(node)
    if (
        isinstance(source.parents[node], ast.Expr)
        or text.lstrip("f\"'").startswith("DROP ")
        or _is_backwards(source, node)
    ):
        return
    if isinstance(node, ast.Constant) and not IS_SQL.search(text):
        yield from literals.without_each_word(source, node)
        return
    for pattern, replacement in EDITS:
        for match in re.finditer(pattern, text):
            start = source.start(node) + len(text[: match.start()].encode())
            end = start + len(match[0].encode())
            context = text[max(0, match.start() - 25) : match.end() + 25]
            yield Edit(start, end, replacement, f"{match[0]} in {context}", replacement)
