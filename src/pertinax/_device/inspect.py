# SPDX-License-Identifier: Apache-2.0
"""Live leaves, understood: what each one is and which boxes of it this process owns.

Knows `jax.Array`, numpy and Python's plain values. Knows nothing of files. Nothing is copied here.
"""

import math
from collections.abc import Hashable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, SingleDeviceSharding

from pertinax._device.shardings import sharding_text
from pertinax._device.spreads import Spreads
from pertinax._plan.boxes import Box, Shape
from pertinax._plan.shares import Sharing
from pertinax._plan.topology import ALONE, Topology
from pertinax._tree.paths import Path, path_text
from pertinax._tree.skeleton import MAX_INT_BITS
from pertinax.errors import UnsupportedLeaf, UnsupportedTopology

INT64 = np.iinfo(np.int64)


class LiveLeaf(NamedTuple):
    """A leaf of the program.

    Attributes:
        kind: as in `StoredLeaf.kind`.
        dtype: name of its dtype; that of the key data for a PRNG key; empty for a `value`.
        shape: global shape, likewise.
        boxes: what this process writes of it, each box once in the whole job.
        sources: for each box the array that holds exactly its elements (`jax.Array` or numpy).
        held: for each source the box that it holds, where that is more than what is written of it.
        write_shape: shape of one written piece before any chunking.
        sharding: its layout as text, if it has one.
        impl: name of the PRNG implementation of a key.
        platform: where a `jax.Array` is, `cpu` or an accelerator; None for everything else.
        positions: for each source its position among the buffers of this process, where a leaf has
            several.
        value: text, or an integer too large for an array; such a leaf has no boxes.
    """

    kind: str
    dtype: str = ""
    shape: Shape = ()
    boxes: tuple[Box, ...] = ()
    sources: tuple[Any, ...] = ()
    write_shape: Shape = ()
    sharding: str | None = None
    impl: str | None = None
    platform: str | None = None
    value: Any = None
    held: tuple[Box, ...] = ()
    positions: tuple[int, ...] = ()

    def box_of_source(self, source: int) -> Box:
        """The box that a source holds."""
        return self.held[source] if self.held else self.boxes[source]


class Inspector:
    """Looks at leaves, remembering dtypes, shapes and layouts that it has met: there are few, and
    many leaves.

    Where several processes save together, arrays are shared out among their holders, and what every
    process has for itself (numpy arrays, numbers) is the primary's to write.
    """

    def __init__(self, topology: Topology = ALONE) -> None:
        self._topology = topology
        self._spreads = Spreads(topology)
        self._sharing = Sharing()
        self._dtypes: dict[Any, str | None] = {}
        self._wholes: dict[Shape, tuple[Box, ...]] = {}
        self._layouts: dict[Hashable, tuple[str | None, str]] = {}
        self._meshes: dict[Mesh, str] = {}

    def look(self, value: Any, path: Path) -> LiveLeaf:
        """Understand one leaf. Raises `UnsupportedLeaf`, naming path and type."""
        if isinstance(value, jax.Array):
            return self._jax(value, path)
        if isinstance(value, np.ndarray):
            return self._numpy("numpy", cast("np.ndarray[Any, Any]", value), path)
        if isinstance(value, np.generic):
            return self._numpy("generic", np.asarray(value), path)
        kind = type(value)
        if kind is bool or kind is float or kind is complex:
            return self._numpy(kind.__name__, np.asarray(value), path)
        if kind is int:
            if INT64.min <= value <= INT64.max:
                return self._numpy("int", np.asarray(value, np.int64), path)
            if value.bit_length() > MAX_INT_BITS:
                raise UnsupportedLeaf(
                    f"leaf {path_text(path)!r} is an integer of {value.bit_length()} bits: too long"
                )
            return LiveLeaf("int", value=value)
        if kind is str:
            return LiveLeaf("str", value=value)
        if kind is bytes:
            return self._numpy("bytes", np.frombuffer(value, np.uint8), path)
        raise UnsupportedLeaf(
            f"leaf {path_text(path)!r} is of type {kind.__module__}.{kind.__qualname__}, which "
            "cannot be stored: pass "
            "arrays, numbers, text, bytes or None, or register the type with jax.tree_util as a "
            "node"
        )

    def _numpy(self, kind: str, array: "np.ndarray[Any, Any]", path: Path) -> LiveLeaf:
        dtype = self._dtype(array.dtype)
        if dtype is None or isinstance(array, np.ma.MaskedArray):
            raise UnsupportedLeaf(
                f"leaf {path_text(path)!r} is a numpy {type(array).__name__} of dtype "
                f"{array.dtype}, which cannot be "
                f"stored: convert it to a plain array of numbers, or to bytes"
            )
        boxes = self._whole(array.shape) if self._topology.is_primary else ()
        return LiveLeaf(kind, dtype, array.shape, boxes, (array,) if boxes else (), array.shape)

    def _jax(self, value: jax.Array, path: Path) -> LiveLeaf:
        if isinstance(value, Tracer):
            raise UnsupportedLeaf(
                f"leaf {path_text(path)!r} is traced: a checkpoint cannot be taken inside jax.jit, "
                "grad or vmap"
            )
        if value.is_deleted():
            raise UnsupportedLeaf(
                f"leaf {path_text(path)!r} is an array that has been deleted or donated: save it "
                "before you donate it"
            )
        dtype = self._dtype(value.dtype)
        kind, impl = "jax", None
        if dtype is None:
            if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                raise UnsupportedLeaf(
                    f"leaf {path_text(path)!r} is a jax.Array of dtype {value.dtype}"
                )
            kind, impl = "key", key_impl_name(value)
            value = jax.random.key_data(value)
            dtype = value.dtype.name
        shape, sharding = value.shape, value.sharding
        layout, platform = self._layout(sharding)
        if self._topology.alone:
            if type(sharding) is SingleDeviceSharding:
                boxes = self._whole(shape)
                sources = (value,) if boxes else ()
                return LiveLeaf(kind, dtype, shape, boxes, sources, shape, layout, impl, platform)
            if not value.is_fully_addressable:
                if self._topology.apart:
                    return self._own(
                        value,
                        LiveLeaf(kind, dtype, shape, (), (), shape, layout, impl, platform),
                    )
                raise UnsupportedTopology(
                    f"leaf {path_text(path)!r} has parts on other processes than "
                    f"{self._topology.process}, which saves by itself: let all of them save it "
                    "together"
                )
        elif value.is_fully_addressable:
            raise UnsupportedLeaf(
                f"leaf {path_text(path)!r} is a jax.Array on devices of process "
                f"{self._topology.process} alone: host local arrays cannot be saved by several "
                "processes, for nobody knows which of them is meant. Make it a global array "
                "(jax.make_array_from_process_local_data, or "
                "fully_replicated_host_local_array_to_global_array of pertinax.checkpoint.utils), "
                "or a numpy array, which the primary saves"
            )
        return self._spread(
            value, path, LiveLeaf(kind, dtype, shape, (), (), shape, layout, impl, platform)
        )

    def _spread(self, value: jax.Array, path: Path, leaf: LiveLeaf) -> LiveLeaf:
        """What this process writes of an array that lies on several devices."""
        if not math.prod(leaf.shape):
            return leaf._replace(write_shape=value.sharding.shard_shape(leaf.shape))
        lay = self._spreads.of(value)
        if not lay.spread.seating.fewest:
            raise UnsupportedTopology(
                f"leaf {path_text(path)!r} has parts that none of the members "
                f"{list(self._topology.members)} holds: save it with all processes"
            )
        share = self._sharing.share(lay.spread, value.dtype.itemsize)
        whole = share.piece == lay.spread.first
        positions = tuple([lay.positions[i] for i in share.sources])
        return leaf._replace(
            boxes=share.boxes,
            sources=tuple([value.addressable_data(i) for i in positions]),
            positions=positions,
            held=() if whole else tuple([lay.spread.boxes[i] for i in share.sources]),
            write_shape=share.piece,
        )

    def _own(self, value: jax.Array, leaf: LiveLeaf) -> LiveLeaf:
        """All that this process holds of an array that has parts on others, each box once."""
        leaf = leaf._replace(write_shape=value.sharding.shard_shape(leaf.shape))
        if not math.prod(leaf.shape):
            return leaf
        lay = self._spreads.of(value)
        sources = tuple([value.addressable_data(i) for i in lay.positions])
        return leaf._replace(boxes=lay.spread.boxes, sources=sources, positions=lay.positions)

    def _whole(self, shape: Shape) -> tuple[Box, ...]:
        """The box of a whole array; none if the array has no elements."""
        if shape not in self._wholes:
            self._wholes[shape] = (Box.whole(shape),) if math.prod(shape) else ()
        return self._wholes[shape]

    def _dtype(self, dtype: "np.dtype[Any]") -> str | None:
        if dtype not in self._dtypes:
            self._dtypes[dtype] = dtype_name(dtype)
        return self._dtypes[dtype]

    def _layout(self, sharding: Any) -> tuple[str | None, str]:
        """The layout as text, and the platform that it is on."""
        found = self._layouts.get(sharding)
        if found is None:
            platform = next(iter(sharding.device_set)).platform
            # Only the primary writes it down.
            told = self._topology.is_primary
            text = sharding_text(sharding, self._meshes) if told else None
            found = self._layouts[sharding] = (text, platform)
        return found


def key_impl_name(keys: jax.Array) -> str:
    """`threefry2x32`, `rbg`, ...: the name that `jax.random.wrap_key_data` takes."""
    impl: Any = jax.random.key_impl(keys)
    return impl if isinstance(impl, str) else str(getattr(impl, "_impl", impl).name)


def dtype_name(dtype: Any) -> str | None:
    """The name under which a dtype is stored, or None if it is none of plain numbers (or one of
    JAX's own).
    """
    if not isinstance(dtype, np.dtype):
        return None
    if dtype.kind in "mM":
        return dtype.str if dtype.str[0] == ">" else dtype.name
    if dtype.kind in "OSUTV" and dtype.type.__module__ != "ml_dtypes":
        return None
    if (dtype.kind == "f" and dtype.itemsize > 8) or (dtype.kind == "c" and dtype.itemsize > 16):
        return None  # long double: its layout differs from machine to machine
    return dtype.str if dtype.str[0] == ">" else dtype.name
