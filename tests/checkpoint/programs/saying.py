# SPDX-License-Identifier: Apache-2.0
"""How the programs of this folder tell what happened, in words that two libraries can share.

Knows values, arrays and errors. Runs under old Pythons too; knows neither library.
"""

import builtins
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

HEARD: list = []


def say(name: str, value: Any) -> None:
    """Tell a value."""
    HEARD.append([name, plain(value)])


def case(part: Callable[[], Any]) -> None:
    """Run a part of a program at once. It has a directory of its own, which is not there yet, and
    calls it `root`.
    """
    parent = epath.Path(sys.argv[1]) / part.__name__
    parent.mkdir(parents=True)
    part.__globals__["root"] = parent / "root"
    part()


def common(ocp: Any, root: Callable[[], Any], *, anything: bool = False) -> tuple:
    """What most programs use of a library: its args, `Composite`, options, args for JSON; the names
    in a directory (`root()`, unless another is given) that Orbax has, too; and a maker of managers
    of `root()` that takes options, or with `anything` whatever a manager takes, options as `o=`.
    """
    ours = ("pertinax.json", "commit_success.txt", ".pertinax")
    options = ocp.CheckpointManagerOptions

    def names(path: Any = None) -> list:
        return sorted(one.name for one in (path or root()).iterdir() if one.name not in ours)

    def with_options(**o: Any) -> Any:
        return ocp.CheckpointManager(root(), options=options(**o))

    def with_anything(*args: Any, o: Any = None, **kwargs: Any) -> Any:
        return ocp.CheckpointManager(root(), *args, options=options(**(o or {})), **kwargs)

    make = with_anything if anything else with_options
    return ocp.args, ocp.args.Composite, options, ocp.args.JsonSave, names, make


def attempt(name: str, call: Callable[[], Any], phrase: str = "") -> Any:
    """Tell what `call` returns, or which builtins the error is that it raises; a `phrase` must be
    in its text.
    """
    try:
        value = call()
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        kinds = [kind for kind in kinds if kind in vars(builtins) and kind != "object"]
        HEARD.append([name, {"raises": kinds, "says": phrase if phrase in str(error) else None}])
        return None
    say(name, value)
    return value


def plain(value: Any) -> Any:
    """A value as JSON has it; arrays tell their kind, type, shape and content."""
    if isinstance(value, jax.Array):
        return ["jax", str(value.dtype), np.asarray(value).tolist()]
    if isinstance(value, np.ndarray):
        return ["numpy", str(value.dtype), value.tolist()]
    if isinstance(value, Mapping) or type(value).__name__ == "CompositeArgs":
        return {str(key): plain(one) for key, one in sorted(value.items(), key=str)}
    if isinstance(value, tuple):
        return ["tuple", *map(plain, value)]
    if isinstance(value, (list, set, frozenset)):
        return list(map(plain, sorted(value) if not isinstance(value, list) else value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    return type(value).__name__


def heard() -> list:
    """Everything told since the last look."""
    told = json.loads(json.dumps(HEARD))
    HEARD.clear()
    return told
