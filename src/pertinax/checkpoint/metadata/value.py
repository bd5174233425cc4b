"""What is known of a stored leaf without its bytes.

Knows the facts and when two of them count as equal. Knows nothing of how they are found.
"""

import dataclasses
from typing import Any, Self

import numpy as np
from etils import epath

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


@dataclasses.dataclass
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
        cls, shape_dtype_struct: Any, name: str | None = None, directory: Any = None
    ) -> Self:
        """What a `jax.ShapeDtypeStruct` says of an array."""
        layout = getattr(shape_dtype_struct, "sharding", None)
        found = None if layout is None else from_jax_sharding(layout)
        return cls(name, directory, shape_dtype_struct.shape, found, shape_dtype_struct.dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayMetadata) or type(other) is not type(self):
            return False
        mine = (self.shape, self.sharding, self.dtype, self.storage)
        return mine == (other.shape, other.sharding, other.dtype, other.storage)

    def __hash__(self) -> int:
        return hash((self.shape, str(self.dtype)))


@dataclasses.dataclass(eq=False)
class ScalarMetadata(ArrayMetadata):
    """A number by itself. Two are equal if their dtypes are."""

    shape: tuple[int, ...] = ()
    sharding: ShardingMetadata | None = None
    dtype: Any = None
    storage: StorageMetadata | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScalarMetadata) and np.dtype(self.dtype) == np.dtype(other.dtype)

    def __hash__(self) -> int:
        return hash(str(self.dtype))


@dataclasses.dataclass(eq=False)
class StringMetadata(Metadata):
    """A text. All are equal."""
