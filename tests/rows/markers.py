# SPDX-License-Identifier: Apache-2.0
"""Which test carries which marker, read from the sources of the tests.

Knows Python's syntax and the ways to mark a test: a decorator, a class, `pytestmark`, a
`pytest.param`. Knows nothing of what a marker means, and runs nothing.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """`test` (empty: all of the file) of `file` is marked with `value`."""

    value: str
    file: str
    test: str


def marks_of(text: str, marker: str, file: str = "test.py") -> list[Mark]:
    """Every use of `pytest.mark.<marker>("...", ...)` in a file of tests.

    Raises:
        ValueError: An argument is no literal text, or what is marked is no test.
    """
    tree = ast.parse(text)
    named = _values_by_name(tree, marker)
    found = [
        Mark(value, file, test)
        for test, nodes in _marked(tree)
        for value in dict.fromkeys(_values(nodes, marker, named, f"{file}::{test}"))
    ]
    lost = set(_values([tree], marker, {}, file)) - {mark.value for mark in found}
    if lost:
        raise ValueError(f"{file}: {marker} {sorted(lost)} marks no test")
    return found


def _marked(tree: ast.Module) -> Iterator[tuple[str, Sequence[ast.AST]]]:
    """Each test with what may carry its marks; the file itself under the empty name."""
    yield "", [node.value for node in tree.body if _is_pytestmark(node)]
    for node in tree.body:
        if not isinstance(node, Definition):
            continue
        if not isinstance(node, ast.ClassDef):
            if node.name.startswith("test"):
                yield node.name, node.decorator_list
            continue
        own = [part.value for part in node.body if _is_pytestmark(part)]
        yield node.name, [*node.decorator_list, *own]
        for part in node.body:
            if isinstance(part, Definition) and part.name.startswith("test"):
                yield f"{node.name}::{part.name}", part.decorator_list


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


def _values_by_name(tree: ast.Module, marker: str) -> dict[str, list[str]]:
    """What tables at the top of the file hold: `CASES = [pytest.param(..., marks=...)]`."""
    tables: dict[str, list[str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id != "pytestmark":
                tables[target.id] = list(_values([node.value], marker, tables, target.id))
    return tables


def _values(
    nodes: Sequence[ast.AST], marker: str, named: dict[str, list[str]], where: str
) -> Iterator[str]:
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Name):
            yield from named.get(node.id, [])
        if not (isinstance(node, ast.Call) and _is_marker(node.func, marker)):
            continue
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                told = ast.unparse(argument)
                raise ValueError(f"{where}: {marker}({told}) must be literal text")
            yield argument.value


def _is_marker(node: ast.expr, marker: str) -> bool:
    match node:
        case ast.Attribute(attr=name, value=ast.Attribute(attr="mark")):
            return name == marker
        case ast.Attribute(attr=name, value=ast.Name(id="mark")):
            return name == marker
        case _:
            return False


def all_marks(marker: str) -> list[Mark]:
    """The marks of all tests of the project, ordered by value, file and test."""
    found: list[Mark] = []
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text("utf-8")
        # The tests of this module quote marks.
        if f"mark.{marker}(" in text and path.parent != Path(__file__).parent:
            found += marks_of(text, marker, path.relative_to(TESTS.parent).as_posix())
    return sorted(found)
