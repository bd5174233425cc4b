# SPDX-License-Identifier: Apache-2.0
"""Questions to any `orbax.checkpoint`, and answers as plain JSON.

Knows JAX and numpy alone, for the environment of Orbax 0.8.0 has nothing else. The items that are
read were made before, by whoever asks.
"""

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transform_cases import APPLIED, ORIGINAL, RESTORED, STORED, restore

Question = Callable[[], Any]

ITEMS: dict[str, list[Any]] = {
    "without_metadata": [
        None,
        {"x": 0, "p": 0, "q": {"r": 0}},
        {"x": 0, "none": 1, "ed": 5},
        {"x": None, "i": {}, "s": 0},
    ],
    "with_metadata": [
        None,
        {"a": 0, "j": 0, "l": [0, 0]},
        {"a": 0, "j": 0, "s": 0, "p": 0, "z": 0, "l": [0, 0], "e": {}, "str": 0},
    ],
    "placeholders_only": [None, {"e": {}}, {"p": 0, "e": {}}],
    "in_database": [None, {"v": 0}],
    "directories_only": [None],
    "names_only": [None, {"l": [0, 0], "p": 0}, {"l": {"1": 0}}],
}


def questions(ocp: Any, items: Path, scratch: Path) -> Iterator[tuple[str, Question]]:
    """All questions by name."""
    for default in (True, False):
        for name, case in APPLIED.items():
            yield f"applied/{name}/{default}", _applied(ocp, case, default)
    place = scratch / "stored"
    ocp.PyTreeCheckpointer().save(place, STORED)
    for default in (True, False):
        for name, case in RESTORED.items():
            yield f"restored/{name}/{default}", _restored(ocp, place, case, default)
    for scene, targets in ITEMS.items():
        # `names_only` is asked with the handler that makes a tree of names.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=scene != "names_only")
        for i, target in enumerate(targets):
            yield f"items/{scene}/{i}", _read(handler, items / scene, target)
        yield f"metadata/{scene}", _metadata(handler, items / scene)


def _applied(ocp: Any, case: Any, default: bool) -> Question:
    def ask() -> Any:
        transforms, tree = case(ocp)
        return ocp.apply_transformations(ORIGINAL, transforms, tree, default)

    return ask


def _restored(ocp: Any, place: Path, case: Any, default: bool) -> Question:
    def ask() -> Any:
        more = {"transforms_default_to_original": default}
        return restore(ocp, place, *case(ocp), **more)

    return ask


def _read(handler: Any, place: Path, target: Any) -> Question:
    return lambda: handler.restore(place, item=target)


def _metadata(handler: Any, place: Path) -> Question:
    return lambda: jax.tree.map(
        lambda leaf: [type(leaf).__name__, leaf.name], handler.metadata(place)
    )


def answer(question: Question) -> Any:
    """What a question gives, with types, or the builtin that its error is."""
    try:
        return told(question())
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"error": next(name for name in kinds if hasattr(builtins, name))}


def told(value: Any) -> Any:
    """A tree as JSON that tells types apart."""
    if isinstance(value, dict):
        return {"dict": {str(key): told(child) for key, child in sorted(value.items())}}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [told(child) for child in value]}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        kind = "jax.Array" if isinstance(value, jax.Array) else type(value).__name__
        return {kind: [array.dtype.name, list(array.shape), array.reshape(-1).tolist()]}
    return {type(value).__name__: repr(value)}
