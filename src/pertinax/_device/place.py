# SPDX-License-Identifier: Apache-2.0
"""Placing: host bytes become the arrays and values that the reader asked for.

Knows how JAX takes host memory: on a CPU an aligned buffer is used as it is, without a copy; a list
in one `device_put` is much cheaper than one by one. Knows nothing of files.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from pertinax._device.shardings import device_boxes
from pertinax._device.wishes import Wish
from pertinax._plan.boxes import Box, Shape
from pertinax.errors import UnsupportedLeaf


class Parts(NamedTuple):
    """The host arrays of one leaf: one for each of `boxes`; `shape` is that of the whole leaf.

    Without boxes, none of it is wanted here, and the wish says the dtype.
    """

    wish: Wish
    shape: Shape
    boxes: tuple[Box, ...]
    arrays: tuple[NDArray[Any], ...]


class BoxesWanted:
    """The distinct boxes of arrays that this process needs, worked out once for arrays alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[Shape, Sharding | None], tuple[Box, ...]] = {}

    def of(self, wish: Wish, shape: Shape) -> tuple[Box, ...]:
        """The boxes for an array of `shape`. `ValueError` if the sharding cannot divide it."""
        sharding = None if type(wish.sharding) is SingleDeviceSharding else wish.sharding
        found = self._known.get((shape, sharding))
        if found is None:
            boxes = (
                (Box.whole(shape),)
                if sharding is None
                else (box for _, box in device_boxes(sharding, shape))
            )
            found = self._known[shape, sharding] = tuple(dict.fromkeys(boxes))
        return found


def place(parts: Sequence[Parts]) -> list[Any]:
    """The finished leaves, in order. All transfers are given to JAX together."""
    batch = _Batch()
    pending = [_begin(part, batch) for part in parts]
    arrays = batch.put()
    return [_finish(part, slots, arrays) for part, slots in zip(parts, pending, strict=True)]


class _Batch:
    """Arrays on their way to devices. Those for the default device stay uncommitted, as in JAX."""

    def __init__(self) -> None:
        self._loose: list[NDArray[Any]] = []
        self._bound: list[NDArray[Any]] = []
        self._places: list[Any] = []

    def add(self, array: NDArray[Any], where: Any) -> tuple[bool, int]:
        if where is None:
            self._loose.append(array)
            return False, len(self._loose) - 1
        self._bound.append(array)
        self._places.append(where)
        return True, len(self._bound) - 1

    def put(self) -> dict[bool, list[Any]]:
        try:
            loose = jax.device_put(self._loose) if self._loose else []
            bound = jax.device_put(self._bound, self._where()) if self._bound else []
        except TypeError as error:
            raise UnsupportedLeaf(f"an array that this jax cannot hold: {error}") from error
        return {False: loose, True: bound}

    def _where(self) -> Any:
        """One place for all where that is so: JAX need not look at each."""
        first = self._places[0]
        return first if all(place is first for place in self._places) else self._places


def _begin(part: Parts, batch: _Batch) -> list[tuple[bool, int]]:
    if part.wish.kind not in ("jax", "key"):
        return []
    sharding = part.wish.sharding
    if sharding is None or isinstance(sharding, SingleDeviceSharding):
        return [batch.add(part.arrays[0], sharding)]
    by_box = dict(zip(part.boxes, part.arrays, strict=True))
    kind = sharding.memory_kind
    return [
        batch.add(by_box[box], SingleDeviceSharding(device, memory_kind=kind))
        for device, box in device_boxes(sharding, part.shape)
    ]


def _finish(part: Parts, slots: list[tuple[bool, int]], arrays: dict[bool, list[Any]]) -> Any:
    kind = part.wish.kind
    if kind in ("jax", "key"):
        placed = [arrays[bound][i] for bound, i in slots]
        return _assemble(part, placed)
    host = part.arrays[0]
    if kind == "numpy":
        return host
    if kind == "generic":
        return host[()]
    if kind == "bytes":
        return host.tobytes()
    return {"bool": bool, "int": int, "float": float, "complex": complex}[kind](host.item())


def _assemble(part: Parts, placed: list[Any]) -> Any:
    sharding: Sharding | None = part.wish.sharding
    if sharding is None or isinstance(sharding, SingleDeviceSharding):
        array = placed[0]
    elif placed:
        array = jax.make_array_from_single_device_arrays(part.shape, sharding, placed)
    else:  # all of it is on devices of other processes
        dtype = jnp.dtype(part.wish.dtype)
        array = jax.make_array_from_single_device_arrays(part.shape, sharding, [], dtype=dtype)
    if part.wish.kind == "key":
        try:
            return jax.random.wrap_key_data(array, impl=part.wish.impl)
        except (TypeError, ValueError) as error:
            raise UnsupportedLeaf(
                f"PRNG keys of {part.wish.impl!r} that this jax cannot make: {error}"
            ) from error
    return array


def view_as(array: NDArray[Any], dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Stored elements as the dtype that the program sees; no value changes."""
    if dtype.byteorder == ">":
        return array.astype(dtype)
    if array.dtype.byteorder == ">":  # others store such, and only ever the numbers themselves
        return array.astype(array.dtype.newbyteorder("="))
    return array if array.dtype == dtype else array.view(dtype)
