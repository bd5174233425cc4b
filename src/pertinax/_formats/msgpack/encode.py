# SPDX-License-Identifier: Apache-2.0
"""Trees as bytes of the legacy file, as Orbax spells them.

Knows which values have a spelling. Items are no longer written this way; programs that keep small
trees in files of their own still are. Knows nothing of files.
"""

from typing import Any, Final, cast

import jax
import numpy as np
from numpy.typing import NDArray

from pertinax._formats.msgpack.values import ARRAY, CHUNKED, COMPLEX, SCALAR, TUPLE
from pertinax._formats.zarr.dtypes import numpy_dtype

MAX_CHUNK_BYTES: Final = 1 << 30
"""Larger arrays are cut: readers of MessagePack have such limits."""


def encode(tree: Any, *, in_place: bool = False, max_chunk_bytes: int = MAX_CHUNK_BYTES) -> bytes:
    """The bytes of `tree`: dicts, lists, tuples, Python's values, arrays and numbers of numpy.

    `in_place` saves the copies of the containers: arrays in the caller's dicts are replaced by what
    is written for them. Raises `ValueError` for what has no spelling.
    """
    import msgpack

    prepared = _prepare(tree if in_place else _sorted(tree), max_chunk_bytes)
    try:
        return cast("bytes", msgpack.packb(prepared, default=_extension, strict_types=True))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"Unsupported msgpack object: {error}") from error


def _sorted(tree: Any) -> Any:
    """Containers anew, with the keys of dicts in order: a copy by JAX, as Orbax makes it, has them
    so, and the same tree shall have the same bytes.
    """
    if type(tree) is dict:
        own = cast("dict[Any, Any]", tree)
        try:
            keys = sorted(own)
        except TypeError:
            keys = list(own)
        return {key: _sorted(own[key]) for key in keys}
    if type(tree) is list or type(tree) is tuple:
        return type(tree)([_sorted(child) for child in cast("list[Any]", tree)])
    return tree


def _prepare(tree: Any, max_chunk_bytes: int) -> Any:
    """The tree with arrays on the host, and those that are too large cut, below dicts only: no
    reader but ours looks for parts anywhere else.
    """
    if _is_array(tree):
        array = _on_host(tree)
        return _cut(array, max_chunk_bytes) if array.nbytes > max_chunk_bytes else array
    if type(tree) is dict:
        own = cast("dict[Any, Any]", tree)
        for key, child in own.items():
            own[key] = _prepare(child, max_chunk_bytes)
        return own
    return tree


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def _on_host(array: Any) -> NDArray[Any]:
    if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise ValueError("keys of random numbers have no spelling: give jax.random.key_data(key)")
    return np.asarray(array)


def _cut(array: NDArray[Any], max_chunk_bytes: int) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    count = max(1, max_chunk_bytes // array.itemsize)
    parts = [flat[i : i + count] for i in range(0, flat.size, count)]
    return {
        CHUNKED: True,
        "shape": {str(i): size for i, size in enumerate(array.shape)},
        "chunks": {str(i): part for i, part in enumerate(parts)},
    }


def _extension(value: Any) -> Any:
    """What is written for a value that MessagePack has no word for."""
    import msgpack

    if _is_array(value):
        return msgpack.ExtType(ARRAY, _payload(_on_host(value)))
    if isinstance(value, np.generic):
        return msgpack.ExtType(SCALAR, _payload(np.asarray(value)))
    if isinstance(value, tuple):
        packed = msgpack.packb(list(value), default=_extension, strict_types=True)
        return msgpack.ExtType(TUPLE, packed)
    if isinstance(value, complex):
        return msgpack.ExtType(COMPLEX, msgpack.packb([value.real, value.imag]))
    raise TypeError(f"{value!r:.200}")


def _payload(array: NDArray[Any]) -> bytes:
    import msgpack

    if array.dtype.hasobject or array.dtype.names is not None:
        raise ValueError(
            "Object and structured dtypes not supported for serialization of ndarrays: "
            f"{array.dtype}"
        )
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.byteorder not in ("=", "|", "<"):
        array = array.astype(array.dtype.newbyteorder("="))
    name = array.dtype.name
    try:
        numpy_dtype(name)
    except ValueError as error:
        raise ValueError(f"arrays of {array.dtype} could not be read back: {error}") from error
    return cast("bytes", msgpack.packb([array.shape, name, array.tobytes()]))
