"""Edits of whole statements, and which parts of a module are not edited at all."""

import ast
from collections.abc import Iterator

from tests.mutants.source import Edit, Source

NAMING = {
    "cast",
    "TypeVar",
    "NewType",
    "ContextVar",
}  # functions whose first argument only people or type checkers read
DECORATORS = {"overload", "abstractmethod", "override", "final", "runtime_checkable"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def edits(source: Source, node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Expr() if not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
            yield source.replace(node, "pass")
        case ast.Raise() | ast.Delete() | ast.Assert() | ast.Break() | ast.Continue():
            yield source.replace(node, "pass")
        case ast.Assign() | ast.AugAssign() if _can_be_deleted(source, node):
            yield source.replace(node, "pass")
        case ast.Return() if node.value and not isinstance(node.value, ast.Constant):
            yield source.replace(node.value, "None")
        case ast.For():
            yield source.replace(node.iter, "()")
        case ast.ExceptHandler() if node.type and not isinstance(node.type, ast.Tuple):
            yield source.replace(node.type, "()")
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            for decorator in node.decorator_list:
                if _last_name(decorator) not in DECORATORS:
                    edit = source.replace(decorator, "")
                    yield edit._replace(start=edit.start - 1, before=f"@{edit.before}")


def _can_be_deleted(source: Source, node: ast.Assign | ast.AugAssign) -> bool:
    """Return whether the statement changes something that exists without it too. Otherwise every use would fail."""
    if isinstance(node, ast.AugAssign):
        return True
    in_class = isinstance(source.parents[node], ast.ClassDef)
    return any(isinstance(target, ast.Attribute | ast.Subscript) or in_class for target in node.targets)


def is_left_out(source: Source, node: ast.AST) -> bool:
    parent = source.parents[node]
    match parent:
        case ast.arg() | ast.AnnAssign() if node is parent.annotation:
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef() if node is parent.returns:
            return True
        case ast.If() if _last_name(parent.test) == "TYPE_CHECKING":
            return True
        case ast.Call() if _last_name(parent.func) in NAMING and node in parent.args[:1]:
            return True
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Raise():
            return node.exc is not None and _last_name(node.exc) == "NotImplementedError"
        case ast.Assign():
            return any(_last_name(target) in ("__slots__", "__all__") for target in node.targets)
        case ast.ClassDef():
            return any(_last_name(base) == "Protocol" for base in node.bases)
    return False


def _last_name(node: ast.AST) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
        case ast.Call() | ast.Subscript():
            return _last_name(node.func if isinstance(node, ast.Call) else node.value)
    return ""
