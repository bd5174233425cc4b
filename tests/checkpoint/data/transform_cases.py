# SPDX-License-Identifier: Apache-2.0
"""Transformations to be tried with any `orbax.checkpoint`: ours, today's and that of 0.8.0.

Knows JAX and numpy alone, for the environment of Orbax 0.8.0 has nothing else.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Point(NamedTuple):
    x: Any
    y: Any


ORIGINAL = {"a": 1, "b": {"c": 2, "d": [3, 4]}, "e": {}, "n": None}

APPLIED: dict[str, Callable[[Any], Any]] = {
    "rename": lambda o: ({"x": o.Transform(original_key="a")}, {"x": 0}),
    "groups": lambda o: ({r"q/(\w)": o.Transform(original_key=r"b/\1")}, {"q": {"c": 0}}),
    "into a list": lambda o: ({r"q/(.*)": o.Transform(original_key=r"b/d/\1")}, {"q": [0, 0]}),
    "whole keys": lambda o: ({"q": o.Transform(original_key="a")}, {"qq": 5}),
    "value_fn": lambda o: ({"a": o.Transform(value_fn=lambda v: v * 10)}, {"a": 0}),
    "renamed and changed": lambda o: (
        {"x": o.Transform(original_key="b/c", value_fn=lambda v: -v)},
        {"x": 0},
    ),
    "fallback": lambda o: ({"a": o.Transform(use_fallback=True)}, {"a": 0}),
    "new fallback": lambda o: ({"z": o.Transform(use_fallback=True)}, {"a": 0, "z": 9}),
    "missing": lambda o: ({"a": o.Transform(original_key="zz")}, {"a": 0}),
    "missing for value_fn": lambda o: ({"zz": o.Transform(value_fn=abs)}, {"zz": 0}),
    "multi_value_fn": lambda o: (
        {"a": o.Transform(multi_value_fn=lambda k, t: [k, t])},
        {"a": 0},
    ),
    "nothing said": lambda o: ({}, {"a": 0, "z": 9}),
    "empty transform": lambda o: ({"a": o.Transform()}, {"a": 0}),
    "the last counts": lambda o: (
        {"a": o.Transform(value_fn=lambda v: v * 10), ".": o.Transform(value_fn=abs)},
        {"a": 0},
    ),
    "nested": lambda o: (
        {"b": {"c": o.Transform(value_fn=lambda v: -v)}},
        {"b": {"c": 0}},
    ),
    "attributes": lambda o: ({}, {"b": {"c": Point(0, {}), "d": (0, 0)}, "e": (), "a": None}),
    "new containers": lambda o: ({}, {"e": 5, "b": {"c": {}, "d": [None, 0]}}),
    "no rule": lambda o: ({"a": None}, {"a": 0}),
    "no transform for restore": lambda o: (
        {"a": o.RestoreTransform(multi_value_fn=lambda k, t: t["a"])},
        {"a": 0},
    ),
    "empty tree": lambda o: ({}, {}),
    "nothing": lambda o: ({}, None),
}


STORED = {
    "a": np.arange(4.0),
    "b": {"c": np.ones(2, np.float32), "d": [np.zeros(1), np.full(2, 7)]},
    "s": 3,
    "t": "text",
    "e": {},
    "n": None,
}
Case = Callable[[Any], tuple[Any, Any, Any]]
"""Gives item, transforms and restore args (None: plain ones for each leaf)."""

RESTORED: dict[str, Case] = {
    "a part": lambda o: ({"a": 0, "z": 5}, {}, None),
    "rename": lambda o: ({"q": 0}, {"q": o.Transform(original_key="b/c")}, None),
    "groups": lambda o: ({"q": [0, 0]}, {r"q/(\d)": o.Transform(original_key=r"b/d/\1")}, None),
    "value_fn": lambda o: ({"a": 0}, {"a": o.Transform(value_fn=lambda v: v * 2)}, None),
    "fallback": lambda o: ({"a": 0, "s": 0}, {"a": o.Transform(use_fallback=True)}, None),
    "empty transform": lambda o: ({"a": 0, "s": 0}, {"a": o.Transform()}, None),
    "other containers": lambda o: ({"b": {"d": (0, 0)}, "t": 0}, {}, None),
    "missing": lambda o: ({"a": 0}, {"a": o.Transform(original_key="zz")}, None),
    "missing fallback": lambda o: ({"zz": 0}, {"zz": o.Transform(use_fallback=True)}, None),
    "args of some": lambda o: ({"a": 0, "z": 1}, {}, {"a": o.RestoreArgs(dtype=np.float16)}),
    "args of more": lambda o: (
        {"a": 0},
        {},
        {"a": o.RestoreArgs(dtype=np.float16), "q": o.RestoreArgs()},
    ),
    "several": lambda o: (
        {"m": 0},
        {
            "m": o.RestoreTransform(
                multi_value_fn=lambda k, t, r: [k, t["a"], t["b"]["d"]],
                multi_value_fn_input_args={
                    "a": o.RestoreArgs(dtype=np.float16),
                    "b/.*": o.RestoreArgs(),
                },
            )
        },
        None,
    ),
    "several, plain": lambda o: ({"m": 0}, {"m": o.Transform(multi_value_fn=max)}, None),
    "several, no inputs": lambda o: (
        {"m": 0},
        {"m": o.RestoreTransform(multi_value_fn=max)},
        None,
    ),
    "several, unused": lambda o: ({"a": 0}, {"q": o.Transform(multi_value_fn=max)}, None),
    "no item": lambda o: (None, {}, None),
}


def restore(ocp: Any, place: Path, item: Any, transforms: Any, args: Any, **more: Any) -> Any:
    if args is None and item is not None:
        args = jax.tree.map(lambda _: ocp.RestoreArgs(), item)
    wanted = ocp.args.PyTreeRestore(item=item, restore_args=args, transforms=transforms, **more)
    return ocp.PyTreeCheckpointHandler().restore(place, args=wanted)
