"""A module's source with its syntax tree, and edits of it."""

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple


class Edit(NamedTuple):
    """A change of some bytes. `before` and `after` describe it to people and make up the name of the mutant."""

    start: int
    end: int
    text: str
    before: str
    after: str


class Source:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.tree = ast.parse(content)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def _lines(self) -> list[int]:
        """The offset of each line's first byte."""
        starts = [0]
        for line in self.content.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    @cached_property
    def _dump(self) -> str:
        return ast.dump(self.tree)

    def start(self, node: ast.AST) -> int:
        return self._lines[node.lineno - 1] + int(node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        return self._lines[node.end_lineno - 1] + int(node.end_col_offset)  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        return self.content[self.start(node) : self.end(node)].decode()

    def between(self, left: ast.AST, right: ast.AST) -> str:
        return self.content[self.end(left) : self.start(right)].decode()

    def replace(self, node: ast.AST, text: str) -> Edit:
        return Edit(self.start(node), self.end(node), text, self.text(node), text)

    def replace_operator(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Edit | None:
        """Replace the operator between two operands. There may be parentheses and comments around it."""
        pattern = r"\s+".join(rf"\b{word}\b" if word.isalpha() else re.escape(word) for word in old.split())
        text, count = re.subn(pattern, new, self.between(left, right), count=1)
        if not count:
            return None
        whole = self.parents[right]
        return Edit(self.end(left), self.start(right), text, self.text(whole), f"{self.text(left)} {new} …")

    def apply(self, edit: Edit) -> bytes:
        return self.content[: edit.start] + edit.text.encode() + self.content[edit.end :]

    def is_valid(self, edit: Edit) -> bool:
        """Return whether the edited module can be compiled, and differs from this one."""
        try:
            tree = ast.parse(self.apply(edit))
            compile(tree, "module", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return ast.dump(tree) != self._dump

    def is_located(self, node: ast.AST) -> bool:
        """Return whether the positions are those of the node. Before Python 3.12 they are wrong inside of f-strings."""
        if not any(isinstance(ancestor, ast.JoinedStr) for ancestor in self.ancestors(node)):
            return True
        try:
            return ast.dump(ast.parse(self.text(node), mode="eval").body) == ast.dump(node)
        except (AttributeError, IndexError, SyntaxError, UnicodeDecodeError):
            return False

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def scope(self, node: ast.AST) -> str:
        """Return the dotted name of what a node belongs to: classes, functions and the variable that it is assigned to.

        Assignments count outside of functions only, because they are the names of tables.
        """
        names = []
        for parent in (*self._named_ancestors(node), node):
            if isinstance(parent, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.append(parent.name)
        if not self.function(node):
            for parent in self.ancestors(node):
                if isinstance(parent, ast.Assign | ast.AnnAssign):
                    names.append(self.text(parent.targets[0] if isinstance(parent, ast.Assign) else parent.target))
        return ".".join(names) or "<module>"

    def function(self, node: ast.AST) -> str:
        """Return the dotted name of the outermost function around a node, "" if there is none."""
        names = []
        for parent in self._named_ancestors(node):
            names.append(parent.name)
            if not isinstance(parent, ast.ClassDef):
                return ".".join(names)
        return ""

    def _named_ancestors(self, node: ast.AST) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        return [parent for parent in self.ancestors(node) if isinstance(parent, kinds)][::-1]
