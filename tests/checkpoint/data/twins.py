# SPDX-License-Identifier: Apache-2.0
"""Twins: the same small program run with the real `orbax.checkpoint` and with our door.

Knows how to compare what comes of it: values with their types and layouts, or the builtin that an
error is. Knows nothing of either implementation.
"""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax import checkpoint as door

Program = Callable[[Any, Path], Any]


class Point(NamedTuple):
    x: Any
    y: Any


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))


def sharded(spec: PartitionSpec, shape: tuple[int, ...] = (8, 4), dtype: Any = jnp.float32):
    value = jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)
    return jax.device_put(value, NamedSharding(mesh(), spec))


def optax_state() -> State:
    params = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(4)}
    tx = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    return State(jnp.array(3), params, tx.init(params))


TREES: dict[str, Callable[[], Any]] = {
    "jax": lambda: {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((), jnp.bfloat16)},
    "sharded": lambda: {
        "rows": sharded(PartitionSpec("a")),
        "both": sharded(PartitionSpec("b", "a")),
        "grouped": sharded(PartitionSpec(("a", "b"))),
        "replicated": sharded(PartitionSpec()),
        "partly": sharded(PartitionSpec(None, "b")),
    },
    "numpy": lambda: {"i": np.arange(5), "f": np.ones((2, 2), np.float16), "z": np.array(3.5)},
    "extended": lambda: {"b": np.ones(3, ml_dtypes.bfloat16), "c": np.ones(2, np.complex64)},
    "scalars": lambda: {"i": 1, "f": 2.5, "t": True, "m": -(2**40)},
    "text": lambda: {"s": "words", "u": "Wörter", "empty": "", "deep": {"x": "y"}},
    "empties": lambda: {"d": {}, "l": [], "t": (), "n": None, "nt": Point(None, {}), "x": 1},
    "nested": lambda: {"l": [1, [2, {"k": 3}]], "t": (1, (2, 3)), "nt": Point(1, [2])},
    "list": lambda: [np.arange(3), {"a": 1}],
    "tuple": lambda: (np.arange(3), 1),
    "namedtuple": lambda: Point(np.arange(3), {"k": 2}),
    "names": lambda: {"a.b": 1, "a": {"c": 2}, "w/x": 3, "0": {"1": 4}},
    "int keys": lambda: {1: np.arange(2), 2: {3: 4}},
    "optax": optax_state,
}


def same(mine: Any, theirs: Any, at: str = "") -> None:
    """Assert that two results are alike: containers, types, dtypes, values and layouts."""
    if isinstance(theirs, dict):
        assert isinstance(mine, dict), (at, mine)
        assert set(mine) == set(theirs), at
        for key in theirs:
            same(mine[key], theirs[key], f"{at}/{key}")
    elif isinstance(theirs, (list, tuple)):
        assert type(mine) is type(theirs), (at, type(mine), type(theirs))
        assert len(mine) == len(theirs), at
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            same(one, other, f"{at}/{i}")
    elif isinstance(theirs, State):
        same(vars(mine), vars(theirs), at)
    elif isinstance(theirs, (jax.Array, np.ndarray)):
        _same_array(mine, theirs, at)
    else:
        assert type(mine) is type(theirs), (at, mine, theirs)
        assert mine == theirs, at


def _same_array(mine: Any, theirs: Any, at: str) -> None:
    kind = jax.Array if isinstance(theirs, jax.Array) else np.ndarray
    assert isinstance(mine, kind), (at, type(mine), type(theirs))
    assert mine.dtype == theirs.dtype, at
    assert mine.shape == theirs.shape, at
    if kind is jax.Array:
        assert mine.sharding.is_equivalent_to(theirs.sharding, theirs.ndim), (at, mine.sharding)
    left, right = np.asarray(mine), np.asarray(theirs)
    assert left.tobytes() == right.tobytes(), at


def outcome(program: Program, ocp: Any, root: Path) -> Any:
    root.mkdir()
    try:
        return program(ocp, root)
    except Exception as error:
        return error


def builtin_of(error: BaseException) -> type:
    return next(kind for kind in type(error).__mro__ if vars(builtins).get(kind.__name__) is kind)


def agree(program: Program, root: Path) -> Any:
    """Run `program` with both libraries and compare; returns what ours gave, error or not."""
    import orbax.checkpoint as orbax

    theirs = outcome(program, orbax, root / "theirs")
    mine = outcome(program, door, root / "mine")
    if isinstance(theirs, Exception):
        assert isinstance(mine, Exception), (theirs, mine)
        assert isinstance(mine, builtin_of(theirs)), (mine, theirs)
    else:
        if isinstance(mine, Exception):
            raise mine
        same(mine, theirs)
    return mine
