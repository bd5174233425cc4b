# SPDX-License-Identifier: Apache-2.0
"""Arguments of single leaves: how a program wants each of them saved or restored.

Knows dtypes, chunks, types, shapes and layouts as wishes. Knows nothing of files or of handlers.
"""

import dataclasses
import logging
import time
from typing import Any, Final

import jax
import numpy as np

from pertinax.checkpoint._registry import LAST_SAID

_LOG: Final = logging.getLogger(__name__)
_SILENCE_S: Final = 12 * 3600


@dataclasses.dataclass
class SaveArgs:
    """How to save one leaf.

    Attributes:
        aggregate: means nothing any more; setting it is logged, at most twice a day.
        dtype: store it in this dtype instead of its own.
        chunk_byte_size: upper bound for the bytes of one stored chunk.
    """

    aggregate: bool = False
    dtype: Any = None
    chunk_byte_size: int | None = None

    def __post_init__(self) -> None:
        if self.aggregate:
            _say_now_and_then(
                "SaveArgs.aggregate", "SaveArgs(aggregate=True) is deprecated and changes nothing"
            )


@dataclasses.dataclass
class RestoreArgs:
    """How to restore one leaf.

    Attributes:
        restore_type: what it shall become, as a type or by the API's name of it; None: what it was.
        dtype: convert it to this dtype.
    """

    restore_type: Any = None
    dtype: Any = None


@dataclasses.dataclass
class ArrayRestoreArgs(RestoreArgs):
    """How to restore a leaf as a `jax.Array`.

    Attributes:
        mesh, mesh_axes: where both are given, the array is laid out over them.
        sharding: where it shall live otherwise (a sharding of JAX, or its metadata); None: as it
            was saved.
        global_shape: the shape it shall have; None: the stored one.
        strict: whether another `global_shape` than the stored one is an error; if not, the array is
            cut at the end, or filled up with zeros.
    """

    restore_type: Any = jax.Array
    mesh: jax.sharding.Mesh | None = None
    mesh_axes: jax.sharding.PartitionSpec | None = None
    sharding: Any = None
    global_shape: tuple[int, ...] | None = None
    strict: bool = True


@dataclasses.dataclass
class SingleReplicaArrayRestoreArgs(ArrayRestoreArgs):
    """How to restore a `jax.Array` that one replica reads and the others are sent.

    Attributes:
        single_replica_sharding: the layout within the replica that this process belongs to.
    """

    single_replica_sharding: jax.sharding.NamedSharding | None = None


def default_restore_type(args: RestoreArgs) -> Any:
    """What a leaf becomes when neither the checkpoint nor the args name a type."""
    if isinstance(args, ArrayRestoreArgs):
        return jax.Array
    if isinstance(args, RestoreArgs):
        return np.ndarray
    raise ValueError(f"no type to restore for args of type {type(args).__name__}")


def _say_now_and_then(key: str, text: str) -> None:
    now = time.monotonic()
    if key not in LAST_SAID or now - LAST_SAID[key] >= _SILENCE_S:
        LAST_SAID[key] = now
        _LOG.warning(text)
