# SPDX-License-Identifier: Apache-2.0
"""A changed module in the place of the one that is already imported, or is about to be.

Knows function objects and import hooks. Knows nothing of which change it is. In a process that has
imported everything, functions are given new code where they are: whoever imported, wrapped or bound
them sees it. What only runs at import (constants, defaults, classes) needs a new process.
"""

import gc
import importlib.abc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


class Living:
    """The functions of some files that are alive in this process."""

    def __init__(self, filenames: list[str]) -> None:
        self._functions: dict[str, list[FunctionType]] = {one: [] for one in filenames}
        for one in gc.get_objects():
            if isinstance(one, FunctionType) and one.__code__.co_filename in self._functions:
                self._functions[one.__code__.co_filename].append(one)

    def change(self, module: CodeType) -> bool:
        """Give functions the code that they have in a changed module; whether any of it differs."""
        functions = self._functions[module.co_filename]
        codes = list(_inside(module))
        return sum(_give(one, codes) for one in functions) > 0

    def would_change(self, module: CodeType) -> bool:
        """Whether `change` would do all of it."""
        codes = list(_inside(module))
        return any(_differing(one, codes) for one in self._functions[module.co_filename])


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Has one module imported with other code."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name, self._code = name, code

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._code.co_filename
        exec(self._code, module.__dict__)


def change_elsewhere(name: str, text: str, file: Path) -> None:
    """Have a changed module imported by the processes that this one starts from now on."""
    file.write_text(text)
    os.environ["PERTINAX_CHANGED"] = f"{name}={file}"
    before = os.environ.get("PYTHONPATH", "")
    folder = Path(__file__).with_name("elsewhere")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))


def _give(function: FunctionType, codes: list[CodeType]) -> bool:
    other = _differing(function, codes)
    if other is not None:
        function.__code__ = other
    return other is not None


def _differing(function: FunctionType, codes: list[CodeType]) -> CodeType | None:
    """The new code of a function. None if it stays, or is one of several in a line."""
    mine = function.__code__
    same = [
        one
        for one in codes
        if (one.co_qualname, one.co_firstlineno) == (mine.co_qualname, mine.co_firstlineno)
    ]
    fits = len(same) == 1 and same[0].co_freevars == mine.co_freevars
    return same[0] if fits and same[0] != mine else None


def _inside(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _inside(one)
