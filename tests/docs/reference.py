# SPDX-License-Identifier: Apache-2.0
"""The reference pages: what each public module of both doors exports, from the code itself.

Knows modules, signatures and docstrings. Knows nothing of what a name does.

    python -m tests.docs.reference      writes docs/reference/
"""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tests.docs.pages import ROOT

FOLDER = ROOT / "docs" / "reference"
DOOR = "pertinax.checkpoint"
_HEAD = "<!-- Written by `make reference`. -->"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_VARIANCE = re.compile(r"(?<!\w)[~+](?=[A-Z])")
_MODULE = re.compile(r"\b(?:[a-z_][a-z_0-9]*\.)+(?=[A-Z])")


def pages() -> dict[str, str]:
    """File name -> text of every page, the index included."""
    modules = list(public_modules())
    # The page that is the most special documents a name; the door comes first, and gives way.
    homes = {id(getattr(one, name)): _short(one) for one in modules for name in exports(one)}
    out = {f"{_short(module)}.md": page(module, homes) for module in modules}
    rows = [f"| [`{_short(m)}`]({_short(m)}.md) | {first_sentence(m)} |" for m in modules]
    out["index.md"] = "\n".join(
        [
            "# Reference",
            "",
            _HEAD,
            "",
            "One page for each public module, made from the docstrings. `help()` shows more:",
            "arguments, units, errors.",
            "",
            "| module | |",
            "|---|---|",
            *rows,
            "",
        ]
    )
    return out


def public_modules() -> Iterator[ModuleType]:
    """The front door and its two modules; the Orbax door, the modules that it offers by name, and
    those of `path`, which offers only them.

    What lies below the others is offered by them; programs need not know where it is kept.
    """
    for name in ("pertinax", "pertinax.policies", "pertinax.errors", "pertinax.testing"):
        yield importlib.import_module(name)
    door = importlib.import_module(DOOR)
    yield door
    for name in sorted([*exports(door), "test_utils"]):
        value = getattr(door, name)
        if isinstance(value, ModuleType) and value.__name__ == f"{DOOR}.{name}":
            yield value
    path = importlib.import_module(f"{DOOR}.path")
    for one in pkgutil.iter_modules(path.__path__, path.__name__ + "."):
        yield importlib.import_module(one.name)


def exports(module: ModuleType) -> list[str]:
    """The names that a module offers, by the rule of type checkers: what it makes itself, and what
    it imports `as` the same name; or what its `__all__` says.
    """
    said = getattr(module, "__all__", None)
    if said is not None:
        return sorted(said)
    names: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {one.asname for one in node.names if one.asname == one.name.rpartition(".")[2]}
    public = {name for name in names if name and not name.startswith("_")}
    return sorted(name for name in public if not isinstance(getattr(module, name), TypeVar))


def page(module: ModuleType, homes: Mapping[int, str]) -> str:
    """The page of one module. What another page documents is a link there."""
    lines = [f"# `{_short(module)}`", "", _HEAD, "", _paragraph(module), ""]
    for name in exports(module):
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            continue
        lines += [f"## `{name}`", ""]
        home = homes.get(id(value), _short(module))
        if home != _short(module):
            lines += [f"{first_sentence(value)} See [`{home}`]({home}.md).", ""]
            continue
        lines += _described(name, value)
    return "\n".join(lines).rstrip() + "\n"


def _described(name: str, value: Any) -> list[str]:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        plain = isinstance(value, str | int | float)
        return [f"`{name} = {value!r}`" if plain else f"A {type(value).__name__}.", ""]
    lines = ["```", f"{name}{_signature(value)}", "```", "", _paragraph(value), ""]
    members = [_member(one, what) for one, what in _members(value)]
    return [*lines, *members, ""] if members else lines


def first_sentence(value: Any) -> str:
    """Up to the first full stop of the documentation."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".") + "."


def _members(value: Any) -> list[tuple[str, Any]]:
    """Public methods and properties that a class itself defines and documents."""
    if not inspect.isclass(value):
        return []
    return [
        (name, one)
        for name, one in vars(value).items()
        if not name.startswith("_")
        and (inspect.isfunction(one) or isinstance(one, property | classmethod | staticmethod))
        and inspect.getdoc(one)
    ]


def _member(name: str, value: Any) -> str:
    called = "" if isinstance(value, property) else _signature(getattr(value, "__func__", value))
    return f"- `{name}{called}`: {first_sentence(value)}"


def _signature(value: Any) -> str:
    if isinstance(value, type) and value.__new__ is object.__new__:
        made: Any = value.__init__
        # Of a class below a protocol; once there was an instance, Python shows it otherwise.
        if made is object.__init__ or made.__name__ == "_no_init_or_replace_init":
            return "()"
    try:
        return _plain(str(inspect.signature(value)))
    except (TypeError, ValueError):
        return "(...)"


def _plain(text: str) -> str:
    """Without the places in memory that objects show, and without long names of modules."""
    return _MODULE.sub("", _VARIANCE.sub("", _ADDRESS.sub("", text)))


def _paragraph(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].strip()


def _short(module: ModuleType) -> str:
    return module.__name__.removeprefix("pertinax.")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for stale in {one.name for one in FOLDER.glob("*.md")} - wanted.keys():
        (FOLDER / stale).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, "utf-8")
    print(f"{len(wanted)} pages in {FOLDER.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
