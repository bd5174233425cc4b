# SPDX-License-Identifier: Apache-2.0
"""Tests of the tests: one small change to a module at a time, and which of them no test notices.

    python -m tests.mutation.run src/pertinax/_store/draft.py tests/store [--every 3] [--jobs 2]

Knows Python's syntax trees, and how to have a changed module imported in place of the real one.
Knows nothing of what the modules do. Each change lives in a process of its own, forked from one
that has imported what is slow, and ends with the first test that fails. Docstrings, log lines and
texts of errors are left alone. What survives is printed as `file:line: change`.
"""

import argparse
import ast
import concurrent.futures
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
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
}
QUIET = ("_LOG", "warnings", "print")
LIMIT_S = 180
FAST = "not campaign and not slow and not interop"


class Mutator(ast.NodeTransformer):
    """Counts the places that could change, and changes the `wanted`-th."""

    def __init__(self, wanted: int | None) -> None:
        self.wanted = wanted
        self.count = 0
        self.made = ""

    def _mine(self, node: Any, words: str) -> bool:
        self.count += 1
        if self.count - 1 != self.wanted:
            return False
        self.made = f"{node.lineno}: {words}"
        return True

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
            isinstance(one, ast.Constant | ast.JoinedStr) for one in (node.left, node.right)
        )
        if other and not texts and self._mine(node, f"{type(node.op).__name__}"):
            node.op = other()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._mine(node, "not dropped"):
            return node.operand
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if self._mine(node, "if always"):
            node.test = ast.Constant(True)
        if self._mine(node, "if never"):
            node.test = ast.Constant(False)
        return node

    def visit_Constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, bool):
            if self._mine(node, f"{node.value} -> {not node.value}"):
                return ast.copy_location(ast.Constant(not node.value), node)
        elif isinstance(node.value, int) and self._mine(node, f"{node.value} + 1"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant) or ast.unparse(node).startswith(QUIET):
            return node
        self.generic_visit(node)
        if self._mine(node, f"dropped: {ast.unparse(node)}"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        if self._mine(node, "raise dropped"):
            return ast.copy_location(ast.Pass(), node)
        return node  # its text may say what it likes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        node.body = [self.visit(one) for one in node.body]
        return node


def changed(source: str, number: int | None) -> tuple[str, Mutator]:
    mutator = Mutator(number)
    tree = mutator.visit(copy.deepcopy(ast.parse(source)))
    return ast.unparse(ast.fix_missing_locations(tree)), mutator


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, f"<{self._name} changed>", "exec"), module.__dict__)


def survives(name: str, source: str, tests: list[str]) -> bool:
    """Whether all tests pass. In a process of its own."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    signal.alarm(LIMIT_S)  # what never ends has been noticed
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    import pytest

    sys.meta_path.insert(0, Loader(name, source))
    from hypothesis import HealthCheck, settings

    # What tests/conftest.py does, which wants to be there before JAX.
    unhurried = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    settings.register_profile("unhurried", unhurried)
    settings.load_profile("unhurried")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    try:
        code = int(
            pytest.main([*options, "-m", "not campaign and not slow and not interop", *tests])
        )
    except BaseException:
        code = 1
    os._exit(min(code, 1))


def numbers(source: str, every: int) -> Iterator[int]:
    yield from range(0, changed(source, None)[1].count, every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    os.environ["HYPOTHESIS_PROFILE"] = "ci"
    for heavy in ("jax.numpy", "numpy", "zstandard", "crc32c"):
        importlib.import_module(heavy)
    source = options.module.read_text()
    relative = options.module.resolve().relative_to(Path("src").resolve())
    name = ".".join(relative.with_suffix("").parts)
    if not survives(name, changed(source, None)[0], options.tests):
        raise SystemExit("the tests fail without any change")
    chosen = list(numbers(source, options.every))

    def one(number: int) -> str | None:
        text, mutator = changed(source, number)
        return mutator.made if survives(name, text, options.tests) else None

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        survivors = [made for made in pool.map(one, chosen) if made is not None]
    for made in survivors:
        print(f"{options.module}:{made}")
    print(f"{options.module}: {len(chosen)} changes, {len(survivors)} survive")


if __name__ == "__main__":
    main()
