# SPDX-License-Identifier: Apache-2.0
"""Wishes: what the restore args of a leaf ask for, in the engine's terms.

Knows `RestoreArgs` and its kin, and the type that was recorded for a leaf. Knows nothing of files.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding

from pertinax._device.shardings import sharding_from_text
from pertinax._device.wishes import Wish
from pertinax._formats.manifest import StoredLeaf
from pertinax._tree.paths import path_text
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs, is_empty_typestr
from pertinax.errors import Misfit

_LOG: Final = logging.getLogger(__name__)
_RECORDED: Final[Mapping[str, str]] = {
    "jax": "jax",
    "key": "key",
    "numpy": "numpy",
    "bytes": "bytes",
    "str": "text",
}


class Wanted(NamedTuple):
    """One leaf as wanted: `finish` turns what the engine delivers into what the program gets."""

    wish: Wish
    finish: Callable[[Any], Any] | None = None


class Translator:
    """Turns restore args into wishes; gathers what cannot be, and which layouts are not here."""

    def __init__(self, has_layouts: Callable[[], bool]) -> None:
        self._has_layouts = functools.cache(has_layouts)
        self.misfits: list[Misfit] = []
        self._layouts: dict[str, Sharding | None] = {}
        self._homeless = 0
        self._settled = 0

    def want(self, leaf: StoredLeaf, args: RestoreArgs) -> Wanted:
        """What `args` ask of a stored leaf; a misfit is noted, and the rest of the answer then
        means nothing.
        """
        recorded = _RECORDED.get(leaf.kind, "scalar")
        kind = _kind_of(args.restore_type, leaf) or recorded
        dtype = _dtype_name(args.dtype)
        if leaf.kind == "foreign":
            self._refuse(leaf, kind, "only the type handler of its own program can read it")
        elif (kind == "text") != (leaf.kind == "str"):
            self._refuse(leaf, kind, f"it was saved as {leaf.kind}")
        elif leaf.codec == "none":
            return Wanted(Wish("any"))
        elif recorded == "key":
            return Wanted(Wish("key", None, leaf.shape[:-1], self._place(leaf, args), leaf.impl))
        elif kind == "jax":
            return Wanted(
                Wish("jax", dtype or leaf.dtype, self._shape(leaf, args), self._place(leaf, args))
            )
        elif kind == "scalar":
            if leaf.shape:
                self._refuse(leaf, kind, f"it has the shape {leaf.shape}, so it is not a scalar")
            return Wanted(Wish("generic", dtype), _to_python)
        elif kind == "bytes":
            return Wanted(Wish("bytes"))
        return Wanted(Wish("numpy", dtype))

    def report(self) -> None:
        """Say once that nobody gave layouts, and which of the stored ones could not be rebuilt."""
        if self._settled:
            _LOG.warning(
                "arrays restored with the layout that was saved with them leaves=%d reason='no "
                "sharding was given'; this depends on the same devices being here",
                self._settled,
            )
        if self._homeless:
            _LOG.warning(
                "restored to the default device leaves=%d reason='the devices they were saved from "
                "are not here; give shardings to place them'",
                self._homeless,
            )

    def _shape(self, leaf: StoredLeaf, args: RestoreArgs) -> tuple[int, ...]:
        if not isinstance(args, ArrayRestoreArgs) or args.global_shape is None:
            return leaf.shape
        wanted = tuple(args.global_shape)
        if wanted != leaf.shape and (args.strict or len(wanted) != len(leaf.shape)):
            why = f"Requested shape: {wanted} is not compatible with the stored shape: {leaf.shape}"
            way = "strict=False cuts or pads" if args.strict else "the ranks differ"
            self._refuse(leaf, f"array{list(wanted)}", f"{why}; {way}")
        return wanted

    def _place(self, leaf: StoredLeaf, args: RestoreArgs) -> Sharding | None:
        given = given_sharding(args)
        if given is not None:
            return given
        if leaf.kind == "jax" and not self._has_layouts():
            raise ValueError(
                f"the sharding of the array {path_text(leaf.path)!r} cannot be None, for none is "
                "stored: give `sharding`, or `mesh` and `mesh_axes`, in its ArrayRestoreArgs"
            )
        if leaf.sharding is None:
            return None
        if leaf.sharding not in self._layouts:
            self._layouts[leaf.sharding] = sharding_from_text(leaf.sharding)
        found = self._layouts[leaf.sharding]
        self._homeless += found is None
        self._settled += found is not None
        return found

    def _refuse(self, leaf: StoredLeaf, wanted: str, why: str) -> None:
        stored = f"{leaf.dtype}{list(leaf.shape)}" if leaf.codec != "none" else leaf.kind
        self.misfits.append(Misfit(path_text(leaf.path), stored, wanted, why))


def _dtype_name(dtype: Any) -> str | None:
    if dtype is None or jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    return np.dtype(dtype).name


def _to_python(value: Any) -> Any:
    return value.item()


def given_sharding(args: RestoreArgs) -> Sharding | None:
    """The sharding that the args ask for. Raises `ValueError` for what is none."""
    if not isinstance(args, ArrayRestoreArgs):
        return None
    if args.mesh is not None and args.mesh_axes is not None:
        return NamedSharding(args.mesh, args.mesh_axes)
    if args.sharding is None or isinstance(args.sharding, Sharding):
        return args.sharding
    if hasattr(args.sharding, "to_jax_sharding"):
        return args.sharding.to_jax_sharding()
    inner = getattr(
        args.sharding, "sharding", None
    )  # a layout of JAX, which has its sharding inside
    if isinstance(inner, Sharding):
        return inner
    raise ValueError(f"not a sharding: {args.sharding!r}")


def _kind_of(restore_type: Any, leaf: StoredLeaf) -> str | None:
    """The engine's kind for a type or the API's name of one; None: the recorded type stays."""
    if restore_type is None:
        return None
    if isinstance(restore_type, str):
        if is_empty_typestr(restore_type):
            raise ValueError(
                f"leaf {path_text(leaf.path)!r} has a value: "
                f"it cannot be restored as empty {restore_type}"
            )
        named = {"jax.Array": "jax", "np.ndarray": "numpy", "scalar": "scalar", "string": "text"}
        if restore_type not in named:
            raise ValueError(f"Unknown type: {restore_type!r}")
        return named[restore_type]
    kinds: tuple[tuple[Any, str], ...] = (
        (jax.Array, "jax"),
        (np.ndarray, "numpy"),
        ((int, float, complex, np.generic), "scalar"),
        (str, "text"),
        (bytes, "bytes" if leaf.kind == "bytes" else "scalar"),
    )
    for types, kind in kinds:
        if isinstance(restore_type, type) and issubclass(restore_type, types):
            return kind
    raise ValueError(f"Unknown type: {restore_type!r}")
