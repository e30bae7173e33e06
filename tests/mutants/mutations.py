"""Which faults are put into a module: small edits of its syntax tree, each of which a test should notice.

Left out is what only people read (docstrings, messages of exceptions and of the log, labels), and what only type
checkers read.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.mutants import literals, sql, statements
from tests.mutants.source import Edit, Source

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),  # codespell:ignore notin
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    module: str  # path
    name: str  # stays the same as long as the edited code does, wherever it moves to
    line: int
    function: str  # outermost function around the edit, "" if there is none
    edit: Edit
    original: bytes  # the whole module
    content: bytes  # the whole module with the edit


def mutants_of(module: str, content: bytes) -> list[Mutant]:
    source = Source(content)
    migration = "/migrations/" in module
    found: dict[tuple[int, int, str], Mutant] = {}
    names: Counter[str] = Counter()
    for node in _mutable_nodes(source):
        if not source.is_located(node):
            continue
        for edit in sql.edits(source, node) if migration else _edits(source, node):
            if edit[:3] in found or not source.is_valid(edit):
                continue
            name = f"{module}:{source.scope(node)}: {_short(edit.before)} → {_short(edit.after) or 'nothing'}"
            names[name] += 1
            number = f" ({names[name]})" if names[name] > 1 else ""
            line = content.count(b"\n", 0, edit.start) + 1
            function = source.function(node)
            found[edit[:3]] = Mutant(module, name + number, line, function, edit, content, source.apply(edit))
    return list(found.values())


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 70 else f"{text[:50]}…{text[-19:]}"


def _mutable_nodes(source: Source) -> Iterator[ast.AST]:
    """Return the nodes of the tree, from the top down, without those that no test could notice."""
    pending: list[ast.AST] = [source.tree]
    while pending:
        node = pending.pop(0)
        yield node
        pending[:0] = [child for child in ast.iter_child_nodes(node) if not statements.is_left_out(source, child)]


def _edits(source: Source, node: ast.AST) -> Iterator[Edit]:
    yield from _of_operators(source, node)
    yield from _of_conditions(source, node)
    yield from literals.edits(source, node)
    yield from statements.edits(source, node)


def _of_operators(source: Source, node: ast.AST) -> Iterator[Edit]:
    edits: list[Edit | None] = []
    match node:
        case ast.Compare():
            operands = [node.left, *node.comparators]
            for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
                edits.append(source.replace_operator(left, right, *COMPARISONS[type(operator)]))
        case ast.BoolOp():
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                edits.append(source.replace_operator(left, right, *words))
            for value in node.values:
                rest = f" {words[0]} ".join(f"({source.text(other)})" for other in node.values if other is not value)
                edits.append(source.replace(node, f"({rest})")._replace(before=source.text(value), after=""))
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            edits.append(source.replace_operator(node.left, node.right, *ARITHMETIC[type(node.op)]))
        case ast.AugAssign() if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            edits.append(source.replace_operator(node.target, node.value, f"{old}=", f"{new}="))
        case ast.UnaryOp() if isinstance(node.op, ast.Not | ast.USub):
            edits.append(source.replace(node, f"({source.text(node.operand)})"))
        case ast.Name() if node.id in OPPOSITES and isinstance(source.parents[node], ast.Call):
            edits.append(source.replace(node, OPPOSITES[node.id]))
    yield from filter(None, edits)


def _of_conditions(source: Source, node: ast.AST) -> Iterator[Edit]:
    tests: list[ast.expr] = []
    match node:
        case ast.If() | ast.IfExp():
            tests = [node.test]
        case ast.comprehension():
            tests = node.ifs
        case ast.While():
            yield source.replace(node.test, "False")
    for test in tests:
        for value in ("True", "False"):
            yield source.replace(test, value)
