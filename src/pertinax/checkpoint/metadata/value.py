# SPDX-License-Identifier: Apache-2.0
"""What is known of a stored leaf without its bytes.

Knows the facts and when two of them count as equal. Knows nothing of how they are found.
"""

import dataclasses
from typing import Any, Self

import numpy as np
from etils import epath
from jax.sharding import Sharding

from pertinax.checkpoint.metadata.sharding import ShardingMetadata, from_jax_sharding


@dataclasses.dataclass
class Metadata:
    """A leaf: `name` is its parameter name, `directory` that of its item."""

    name: str | None
    directory: epath.Path | None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


@dataclasses.dataclass(frozen=True)
class StorageMetadata:
    """How an array lies in its files."""

    chunk_shape: tuple[int, ...] | None


@dataclasses.dataclass(eq=False)
class ArrayMetadata(Metadata):
    """An array. Two are equal if shape, layout, dtype and storage are, wherever they lie."""

    shape: tuple[int, ...]
    sharding: ShardingMetadata | None
    dtype: Any
    storage: StorageMetadata | None = None

    @classmethod
    def from_shape_dtype_struct(
        cls, s: Any, name: str | None = None, directory: epath.Path | None = None
    ) -> Self:
        """What a `jax.ShapeDtypeStruct` says of an array."""
        layout = _layout(getattr(s, "sharding", None))
        return cls(name=name, directory=directory, shape=s.shape, sharding=layout, dtype=s.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayMetadata) or type(other) is not type(self):
            return False
        mine = (tuple(self.shape), _layout(self.sharding), self.dtype, self.storage)
        theirs = (tuple(other.shape), _layout(other.sharding), other.dtype, other.storage)
        return mine == theirs

    def __hash__(self) -> int:
        return hash(tuple(self.shape))


def _layout(sharding: Any) -> ShardingMetadata | None:
    """The metadata of a layout, be it live or not."""
    return from_jax_sharding(sharding) if isinstance(sharding, Sharding) else sharding


@dataclasses.dataclass(eq=False)
class ScalarMetadata(ArrayMetadata):
    """A number by itself. Two are equal if their dtypes are."""

    shape: tuple[int, ...] = ()
    sharding: ShardingMetadata | None = None
    dtype: Any = None
    storage: StorageMetadata | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScalarMetadata):
            return False
        if self.dtype is None or other.dtype is None:  # which numpy takes for float64
            return self.dtype is other.dtype
        return np.dtype(self.dtype) == np.dtype(other.dtype)

    def __hash__(self) -> int:
        return hash(None if self.dtype is None else np.dtype(self.dtype))


@dataclasses.dataclass(eq=False)
class StringMetadata(Metadata):
    """A text. All are equal."""
