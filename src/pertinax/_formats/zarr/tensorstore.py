# SPDX-License-Identifier: Apache-2.0
"""The fallback reader: TensorStore, for what we do not decode ourselves.

Knows TensorStore's specs for checkpoints on a local disk. Imports it only when asked to read. Knows
nothing of trees.
"""

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.zarr.array import METADATA_KEY, Driver
from pertinax._formats.zarr.dtypes import native_name, numpy_dtype
from pertinax._plan.boxes import Box
from pertinax.errors import CorruptCheckpoint

Container = Literal["ocdbt", "directory"]


def read_with_tensorstore(
    item_dir: str, leaf: StoredLeaf, box: Box, *, container: Container, array_driver: Driver
) -> NDArray[Any]:
    """The elements of `leaf` in `box`, in memory's byte order.

    Raises `CorruptCheckpoint` when TensorStore cannot read them, or finds another array than `leaf`
    describes.
    """
    import tensorstore

    ts = cast("Any", tensorstore)
    spec = {
        "driver": array_driver,
        "kvstore": key_value_spec(item_dir, leaf.name, container),
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
    }
    try:
        array = ts.open(spec, open=True, read=True).result()
        if tuple(array.shape) != leaf.shape:
            raise ValueError(f"expected shape {leaf.shape}, found {tuple(array.shape)}")
        found = np.asarray(array[box.slices].read().result())
    except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
        reason = f"TensorStore cannot read it: {error!s:.300}"
        raise CorruptCheckpoint(
            reason, file=_metadata_file(leaf.name, array_driver), leaf=leaf.name
        ) from error
    if not leaf.dtype:
        return found
    wanted = numpy_dtype(leaf.dtype)
    stored = native_name(leaf.storage_dtype) if leaf.storage_dtype else leaf.dtype
    if found.dtype != numpy_dtype(stored):
        reason = f"expected dtype {stored}, found {found.dtype}"
        raise CorruptCheckpoint(
            reason, file=_metadata_file(leaf.name, array_driver), leaf=leaf.name
        )
    return found.view(wanted) if found.dtype != wanted else found


def list_with_tensorstore(item_dir: str, driver: Driver) -> dict[str, bytes]:
    """All array metadata of the OCDBT database at `item_dir`, by key.

    Raises `CorruptCheckpoint` when TensorStore cannot read the database.
    """
    import tensorstore

    ts = cast("Any", tensorstore)
    try:
        store = ts.KvStore.open(key_value_spec(item_dir, "", "ocdbt")).result()
        end = METADATA_KEY[driver].encode()
        keys = [key for key in store.list().result() if key == end or key.endswith(b"/" + end)]
        values = [pending.result().value for pending in [store.read(key) for key in keys]]
        return {key.decode(): bytes(value) for key, value in zip(keys, values, strict=True)}
    except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
        reason = f"TensorStore cannot read it: {error!s:.300}"
        raise CorruptCheckpoint(reason, file="manifest.ocdbt") from error


def key_value_spec(item_dir: str, name: str, container: Container) -> dict[str, Any]:
    """Where the keys of array `name` are, in TensorStore's words; all keys if `name` is empty."""
    root, path = item_dir.rstrip("/") + "/", name + "/" if name else ""
    if container == "directory":
        return {"driver": "file", "path": root + path}
    return {"driver": "ocdbt", "base": {"driver": "file", "path": root}, "path": path}


def _metadata_file(name: str, driver: Driver) -> str:
    return f"{name}/{METADATA_KEY[driver]}" if name else METADATA_KEY[driver]
