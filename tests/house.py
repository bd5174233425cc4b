#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that no other linter knows: `python tests/house.py` lists who breaks them.

Knows Python's syntax and our rules (CONTRIBUTING.md). Knows nothing of checkpoints, and imports no
module it judges.

Each rule is a function from one `Module` to its `Finding`s, so that a test can show it a bad
snippet. What must be larger than a budget is listed, with a reason, in
`tests/budget_exceptions.txt`; an exception that excuses nothing is itself a finding.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pertinax"
EXCEPTIONS = ROOT / "tests" / "budget_exceptions.txt"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_CLASS_METHODS = 15
MAX_POSITIONAL = 5
MAX_NESTING = 4

# Here another API's names decide (`checkpoint/utils.py`, `checkpoint/test_utils.py`, ...).
ORBAX_DOOR = "checkpoint/"
# The one module that may hold mutable state, because the Orbax API demands global registries.
STATEFUL_MODULE = "checkpoint/_registry.py"

EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
# What the pure layers may not reach for. Of JAX, trees and the type of an array are data; the rest
# is devices.
IMPURE_MODULES = frozenset(
    "asyncio concurrent ctypes etils io jax mmap multiprocessing os pathlib random secrets shutil "
    "signal socket subprocess tempfile tensorstore threading time".split()
)
IMPURE_BUILTINS = {"open", "print", "input"}
PURE_LAYERS = {"_plan/": set[str](), "_tree/": {"jax.tree_util", "jax.Array"}}

# Annotations through which nobody can write: the type checker guards a table that carries one.
READ_ONLY_TYPES = frozenset(
    "AbstractSet Collection Iterable Mapping MappingProxyType Sequence Set".split()
)
MUTABLE_TYPES = frozenset(
    "array bytearray count cycle dict list set ChainMap Counter OrderedDict SimpleNamespace "
    "defaultdict deque WeakKeyDictionary WeakSet WeakValueDictionary ContextVar local Barrier "
    "BoundedSemaphore Condition Event Lock RLock Semaphore Thread LifoQueue PriorityQueue Queue "
    "SimpleQueue ProcessPoolExecutor ThreadPoolExecutor new_event_loop Random default_rng empty "
    "ones zeros".split()
)
MUTABLE_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
NESTING_NODES = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.Match),
    *(ast.With, ast.AsyncWith, ast.Try, ast.TryStar),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: `path` relative to the package, with `/`."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, text: str) -> "Module":
        return cls(path, text, ast.parse(text))


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. `place` is `file.py` or `file.py:Class.method`, as in the exceptions."""

    rule: str
    place: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.rule:9s} {self.place} (line {self.line}): {self.message}"


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every function and class below `tree`, with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


def last_name(node: ast.AST | None) -> str:
    """The word that names a call or annotation: `Lock` of `threading.Lock()`."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return last_name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


# ------------------------------------------------------------------------------------------ budgets


def check_file_length(module: Module) -> Iterator[Finding]:
    lines = len(module.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield Finding("file", module.path, lines, f"{lines} lines, budget {MAX_FILE_LINES}")


def check_function_length(module: Module) -> Iterator[Finding]:
    for name, node in definitions(module.tree):
        if isinstance(node, ast.ClassDef):
            continue
        first = node.body[0]
        doc = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
        lines = (node.end_lineno or 0) - node.lineno + 1 - doc
        if lines > MAX_FUNCTION_LINES:
            text = f"{lines} lines without docstring, budget {MAX_FUNCTION_LINES}"
            yield Finding("function", f"{module.path}:{name}", node.lineno, text)


def check_class_width(module: Module) -> Iterator[Finding]:
    for name, node in definitions(module.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        methods = [
            part
            for part in node.body
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            and "overload" not in map(last_name, part.decorator_list)
        ]
        if len(methods) > MAX_CLASS_METHODS:
            text = f"{len(methods)} methods, budget {MAX_CLASS_METHODS}"
            yield Finding("class", f"{module.path}:{name}", node.lineno, text)


def check_positional(module: Module) -> Iterator[Finding]:
    for name, node in definitions(module.tree):
        if isinstance(node, ast.ClassDef):
            continue
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MAX_POSITIONAL:
            text = f"{count} parameters before `*`, budget {MAX_POSITIONAL}"
            yield Finding("params", f"{module.path}:{name}", node.lineno, text)


def depth(node: ast.AST) -> int:
    """How deep blocks lie in one another. An `elif` is not deeper than its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deeper = isinstance(child, NESTING_NODES) and not is_elif
        deepest = max(deepest, depth(child) + deeper)
    return deepest


def check_nesting(module: Module) -> Iterator[Finding]:
    for name, node in definitions(module.tree):
        found = 0 if isinstance(node, ast.ClassDef) else depth(node)
        if found > MAX_NESTING:
            text = f"{found} blocks deep, budget {MAX_NESTING}"
            yield Finding("nesting", f"{module.path}:{name}", node.lineno, text)


# ----------------------------------------------------------------------------- names and docstrings


def check_docstring(module: Module) -> Iterator[Finding]:
    doc = ast.get_docstring(module.tree)
    is_front = module.path.endswith("__init__.py")
    if not doc:
        yield Finding("docstring", module.path, 1, "the module has no docstring")
    elif "Knows" not in doc and not is_front and not module.path.startswith(ORBAX_DOOR):
        text = "the docstring does not say what the module knows and what it refuses to know"
        yield Finding("docstring", module.path, 1, text)


def check_module_name(module: Module) -> Iterator[Finding]:
    if module.path.startswith(ORBAX_DOOR):
        return
    for part in module.path.removesuffix(".py").split("/"):
        word = part.strip("_")
        if word in EMPTY_NAMES or word.startswith("base_") or word.endswith(("_lib", "_utils")):
            yield Finding("name", module.path, 1, f"`{part}` does not say what lies inside")


# --------------------------------------------------------------------------------- state and purity


def is_mutable(value: ast.AST | None) -> bool:
    match value:
        case ast.Call():
            return last_name(value) in MUTABLE_TYPES
        case ast.BinOp(left=left, right=right):
            return is_mutable(left) or is_mutable(right)
        case ast.IfExp(body=body, orelse=orelse):
            return is_mutable(body) or is_mutable(orelse)
        case ast.NamedExpr(value=inner):
            return is_mutable(inner)
        case ast.Tuple(elts=elements):
            return any(map(is_mutable, elements))
        case _:
            return isinstance(value, MUTABLE_LITERALS)


def is_read_only(annotation: ast.AST | None) -> bool:
    """`Mapping[..]`, `Final[Mapping[..]]`, but neither `Final` alone nor `dict[..]`."""
    if isinstance(annotation, ast.Subscript) and last_name(annotation) in {"Final", "ClassVar"}:
        return is_read_only(annotation.slice)
    return last_name(annotation) in READ_ONLY_TYPES


def long_lived(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import: those of the module, of its blocks and of its class bodies."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from long_lived(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from long_lived(handler.body)


def check_state(module: Module) -> Iterator[Finding]:
    """No mutable value lives as long as the process; no function rebinds a name of its module."""
    if module.path == STATEFUL_MODULE:
        return
    way_out = "make it a tuple, frozenset or MappingProxyType, or annotate it Mapping/Sequence/Set"
    for node in long_lived(module.tree.body):
        match node:
            case ast.Assign(targets=targets, value=value):
                guarded = [last_name(target) for target in targets] in (["__all__"], ["__slots__"])
            case ast.AnnAssign(annotation=annotation, value=value):
                guarded = is_read_only(annotation) and not isinstance(value, ast.Call)
            case ast.AugAssign(value=value):
                guarded = False
            case _:
                continue
        if is_mutable(value) and not guarded:
            text = f"mutable value at import, `{ast.unparse(node)[:60]}`: {way_out}"
            yield Finding("state", module.path, node.lineno, text)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            text = f"`global {', '.join(node.names)}`: a module does not change its mind"
            yield Finding("state", module.path, node.lineno, text)


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """`a.b` for each `import a.b` and `a.b.c` for each `from a.b import c`, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def check_purity(module: Module) -> Iterator[Finding]:
    """The pure layers do no I/O, read no clock and ask JAX for nothing but trees."""
    layer = next((layer for layer in PURE_LAYERS if module.path.startswith(layer)), None)
    if layer is None:
        return
    for line, name in imported_names(module.tree):
        allowed = any(f"{name}.".startswith(f"{pure}.") for pure in PURE_LAYERS[layer])
        if name.split(".")[0] in IMPURE_MODULES and not allowed:
            yield Finding("purity", module.path, line, f"imports `{name}`, but `{layer}` is pure")
    for node in ast.walk(module.tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in IMPURE_BUILTINS:
            text = f"calls `{called.id}`, but `{layer}` is pure"
            yield Finding("purity", module.path, node.lineno, text)


def check_front_door(module: Module) -> Iterator[Finding]:
    """Nothing inside imports the front door; import-linter cannot see the names of a package."""
    doors = ("__init__.py", "__main__.py", "checkpoint/", "_cli/")
    if module.path.startswith(doors):
        return
    submodules = {path.stem for path in PACKAGE.iterdir()}
    for line, name in imported_names(module.tree):
        head, _, rest = name.partition(".")
        if head == "pertinax" and (not rest or rest.split(".")[0] not in submodules):
            yield Finding("door", module.path, line, f"imports the front door: `{name}`")


RULES: Sequence[Callable[[Module], Iterator[Finding]]] = (
    check_file_length,
    check_function_length,
    check_class_width,
    check_positional,
    check_nesting,
    check_docstring,
    check_module_name,
    check_state,
    check_purity,
    check_front_door,
)
# Budgets may be exceeded for a reason; laws may not.
EXCUSABLE = {"file", "function", "class", "params", "nesting"}


# ---------------------------------------------------------------------------------- the whole house


def read_modules(root: Path = PACKAGE) -> list[Module]:
    paths = sorted(root.rglob("*.py"))
    return [Module.parse(p.relative_to(root).as_posix(), p.read_text("utf-8")) for p in paths]


def read_exceptions(text: str) -> dict[tuple[str, str], str]:
    """Lines of `rule place reason...`; blank lines and those that begin with `#` are skipped."""
    exceptions: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        rule, place, reason = [*line.split(maxsplit=2), "", ""][:3]
        if rule not in EXCUSABLE or len(reason.split()) < 3:
            raise ValueError(
                f"not an exception with a reason: {line!r} (rules: {sorted(EXCUSABLE)})"
            )
        exceptions[rule, place] = reason
    return exceptions


def inspect(modules: Sequence[Module], exceptions: dict[tuple[str, str], str]) -> list[Finding]:
    """All findings that no exception excuses, and all exceptions that excuse nothing."""
    found = [finding for module in modules for rule in RULES for finding in rule(module)]
    used = {(finding.rule, finding.place) for finding in found}
    stale = [
        Finding(rule, place, 0, "is excused in tests/budget_exceptions.txt without need")
        for rule, place in exceptions
        if (rule, place) not in used
    ]
    return [f for f in found if (f.rule, f.place) not in exceptions] + stale


def main() -> int:
    findings = inspect(read_modules(), read_exceptions(EXCEPTIONS.read_text("utf-8")))
    print(*findings, sep="\n" if findings else "")
    print(f"house: {len(findings)} findings in {len(read_modules())} modules")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
