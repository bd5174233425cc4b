# SPDX-License-Identifier: Apache-2.0
"""The small changes that can be made to a module, one at a time.

Knows Python's syntax trees. Knows nothing of tests or of what a module does. Left alone are
docstrings, log lines, what stands in a `raise`, annotations, decorators, and functions without a
body of their own.
"""

import ast
import collections
import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
QUIET = ("_LOG.", "print(")
MODULE = "<module>"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `number` finds it again as long as the source is the same, `key` beyond that.

    Attributes:
        reach: the lines of which one is executed where the change can be noticed.
        scope: the qualified name of the function or class that it is in.
        text: the line of source, without its indentation.
    """

    number: int
    line: int
    reach: tuple[int, int]
    scope: str
    text: str
    words: str

    @property
    def key(self) -> str:
        return f"{self.scope} :: {self.text} :: {self.words}"


def changes_of(source: str) -> list[Change]:
    """Every change that can be made to a source."""
    mutator = Mutator(None, source.splitlines())
    mutator.visit(ast.parse(source))
    # The same change twice in a line: the second is "#2".
    seen: collections.Counter[str] = collections.Counter()
    found: list[Change] = []
    for one in mutator.found:
        key = f"{one.line} {one.key}"
        seen[key] += 1
        nth = f" #{seen[key]}" if seen[key] > 1 else ""
        found.append(dataclasses.replace(one, words=one.words + nth))
    return found


def changed(source: str, number: int, filename: str) -> CodeType:
    """The code of a module with one change. Lines keep their numbers."""
    return compile(_changed_tree(source, number), filename, "exec")


def changed_text(source: str, number: int) -> str:
    """The same as a source, without its comments."""
    return ast.unparse(_changed_tree(source, number))


def _changed_tree(source: str, number: int) -> ast.Module:
    tree = Mutator(number, source.splitlines()).visit(copy.deepcopy(ast.parse(source)))
    return ast.fix_missing_locations(tree)


class Mutator(ast.NodeTransformer):
    """Lists the changes that are possible, and makes the `wanted`-th."""

    def __init__(self, wanted: int | None, lines: Sequence[str]) -> None:
        self.found: list[Change] = []
        self._wanted, self._lines = wanted, lines
        self._scope: list[str] = []
        self._reach = (1, 1)

    def visit(self, node: ast.AST) -> Any:
        before = self._reach
        if isinstance(node, ast.stmt):
            self._reach = _span(node)
        elif isinstance(node, ast.ExceptHandler):
            self._reach = (node.lineno, node.lineno)
        try:
            return super().visit(node)
        finally:
            self._reach = before

    def _mine(self, node: Any, words: str) -> bool:
        first, last = self._reach
        if not first <= node.lineno <= last:
            first, last = node.lineno, node.end_lineno
        scope, text = ".".join(self._scope) or MODULE, self._lines[node.lineno - 1].strip()
        number = len(self.found)
        self.found.append(Change(number, node.lineno, (first, last), scope, text, words))
        return number == self._wanted

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        for i, one in enumerate(node.ops):
            other = SWAPS.get(type(one))
            if other and self._mine(node, f"{type(one).__name__} -> {other.__name__}"):
                node.ops[i] = other()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        other = SWAPS[type(node.op)]
        if self._mine(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        other = SWAPS.get(type(node.op))
        texts = any(
            isinstance(one, ast.JoinedStr)
            or (isinstance(one, ast.Constant) and isinstance(one.value, str | bytes))
            for one in (node.left, node.right)
        )
        types = isinstance(node.op, ast.BitOr) and not self._scope  # a union of types
        if not other or texts or types:
            return node
        if self._mine(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._mine(node, "not dropped"):
            return node.operand
        return node

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return node
        self.generic_visit(node)
        return self._decided(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.generic_visit(node)
        return self._decided(node)

    def _decided(self, node: Any) -> Any:
        if self._mine(node, "if always"):
            node.test = ast.Constant(True)
        if self._mine(node, "if never"):
            node.test = ast.Constant(False)
        return node

    def visit_While(self, node: ast.While) -> Any:
        self.generic_visit(node)
        if self._mine(node, "while never"):
            node.test = ast.Constant(False)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        self.generic_visit(node)
        for one in list(node.ifs):
            if self._mine(one, f"filter dropped: {ast.unparse(one)}"):
                node.ifs.remove(one)
        return node

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        for item in list(node.items):
            text = ast.unparse(item)
            if item.optional_vars is None and self._mine(
                item.context_expr, f"with dropped: {text}"
            ):
                node.items.remove(item)
        return node if node.items else node.body

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> Any:
        self.generic_visit(node)
        first = node.body[0]
        raises = isinstance(first, ast.Raise) and first.exc is None
        if not raises and self._mine(node, "not caught"):
            node.body = [ast.copy_location(ast.Raise(), first)]
        return node

    def visit_Return(self, node: ast.Return) -> Any:
        self.generic_visit(node)
        plain = isinstance(node.value, ast.Constant) and not isinstance(
            node.value.value, str | bytes
        )
        if node.value is not None and not plain and self._mine(node, "return None"):
            node.value = ast.copy_location(ast.Constant(None), node)
        return node

    def visit_Constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, bool):
            if self._mine(node, f"{node.value} -> {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int | float) and self._mine(node, f"{node.value} + 1"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        text = ast.unparse(node)
        if isinstance(node.value, ast.Constant) or text.startswith(QUIET):
            return node
        if not text.startswith("warnings."):  # what a warning says is not looked at
            self.generic_visit(node)
        return self._dropped(node, text)

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        kept = all(isinstance(one, ast.Attribute | ast.Subscript) for one in node.targets)
        return self._dropped(node, ast.unparse(node)) if kept and self._scope else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        other = SWAPS.get(type(node.op))
        if other and self._mine(node, f"{type(node.op).__name__} -> {other.__name__}"):
            node.op = other()
        return self._dropped(node, ast.unparse(node))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        return self._dropped(node, "raise")  # its text may say what it likes

    def visit_Break(self, node: ast.Break) -> Any:
        return self._dropped(node, "break")

    def visit_Continue(self, node: ast.Continue) -> Any:
        return self._dropped(node, "continue")

    def _dropped(self, node: ast.stmt, text: str) -> Any:
        short = text.splitlines()[0]
        if self._mine(node, f"dropped: {short}"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if all(
            isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in node.body
        ):
            return node  # a promise of a protocol
        for defaults in (node.args.defaults, node.args.kw_defaults):
            for i, default in enumerate(defaults):
                if default is not None:
                    defaults[i] = self.visit(default)
        return self._inside(node)

    def _inside(self, node: Any) -> Any:
        self._scope.append(node.name)
        body: list[ast.stmt] = []
        for one in node.body:
            made = self.visit(one)
            body += made if isinstance(made, list) else [made]
        node.body = body
        self._scope.pop()
        return node


def _span(node: ast.stmt) -> tuple[int, int]:
    """The lines of a statement without those of the statements in it."""
    last = node.end_lineno or node.lineno
    match node:
        case ast.Match(cases=[first, *_]):
            last = max(node.lineno, first.pattern.lineno - 1)
        case ast.Try() | ast.TryStar():
            last = node.lineno
        case _ if body := getattr(node, "body", None):
            last = max(node.lineno, body[0].lineno - 1)
    return node.lineno, last
