# SPDX-License-Identifier: Apache-2.0
"""Wishes: how the reader wants each leaf back.

Knows targets (arrays, `jax.ShapeDtypeStruct`, numpy, plain values) and what a stored leaf becomes
when nobody asks for anything special. Knows nothing of files.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from pertinax._device.inspect import dtype_name, key_impl_name
from pertinax._plan.boxes import Shape
from pertinax._tree.paths import Path, path_text
from pertinax.errors import UnsupportedLeaf

WishKind = Literal[
    "any", "jax", "key", "numpy", "generic", "bool", "int", "float", "complex", "str", "bytes"
]


class Wish(NamedTuple):
    """One leaf as the reader wants it.

    Attributes:
        kind: what it shall be; `any`: as it was saved.
        dtype: name of the dtype, None for the stored one.
        shape: its shape (for `key` the shape of the array of keys), None for the stored one.
        sharding: where a `jax.Array` shall live, None for the default device.
        impl: PRNG implementation of a `key`, None for the stored one.
    """

    kind: WishKind
    dtype: str | None = None
    shape: Shape | None = None
    sharding: Sharding | None = None
    impl: str | None = None


class WishReader:
    """Reads wishes off the leaves of a target, remembering the dtypes that it has met."""

    def __init__(self) -> None:
        self._dtypes: dict[Any, str | None] = {}

    def wish_of(self, target: Any, path: Path) -> Wish:
        """What a leaf of the target asks for. `...` asks for whatever is stored.

        Raises `UnsupportedLeaf` for a leaf that no stored leaf can become.
        """
        if isinstance(target, jax.Array | jax.ShapeDtypeStruct):
            return self._array(target)
        if target is ...:
            return Wish("any")
        if isinstance(target, np.ndarray):
            return Wish("numpy", _known_dtype(target, path), target.shape)
        if isinstance(target, np.generic):
            return Wish("generic", _known_dtype(target, path), ())
        kind = type(target).__name__
        if type(target) in (bool, int, float, complex, str, bytes):
            return Wish(kind)  # type: ignore[arg-type] - one of the six names
        raise UnsupportedLeaf(
            f"the target has a {kind} at {path_text(path)!r}: give an array, a "
            "jax.ShapeDtypeStruct, a plain value, "
            f"or ... for whatever is stored"
        )

    def _array(self, target: Any) -> Wish:
        sharding, dtype = target.sharding, target.dtype
        if not getattr(target, "committed", True):
            sharding = None  # an array that JAX may move as it likes comes back as one
        if dtype not in self._dtypes:
            is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)
            self._dtypes[dtype] = None if is_key else dtype.name
        name = self._dtypes[dtype]
        if name is None:
            impl = key_impl_name(target) if isinstance(target, jax.Array) else _impl_of_dtype(dtype)
            return Wish("key", None, target.shape, sharding, impl)
        return Wish("jax", name, target.shape, sharding)


def _known_dtype(target: Any, path: Path) -> str:
    name = dtype_name(target.dtype)
    if name is None:
        raise UnsupportedLeaf(
            f"the target at {path_text(path)!r} is of dtype {target.dtype}, which is never stored"
        )
    return name


def _impl_of_dtype(dtype: Any) -> str | None:
    return getattr(getattr(dtype, "_impl", None), "name", None)


def narrowed_by_jax(dtype: str) -> bool:
    """Whether JAX would cut this dtype down, for `jax_enable_x64` is off."""
    wide = ("int64", "uint64", "float64", "complex128")
    return dtype in wide and not jax.config.read("jax_enable_x64")
