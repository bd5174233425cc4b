# SPDX-License-Identifier: Apache-2.0
"""Matching: which stored leaf becomes which leaf of the target, and why not.

Knows paths, kinds, dtypes and shapes on both sides. Knows nothing of bytes. Strict unless told
otherwise; all misfits are found before the first one is reported.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pertinax._core.casts import family, is_lossless
from pertinax._core.options import LoadOptions
from pertinax._device.wishes import Wish, narrowed_by_jax
from pertinax._formats.manifest import StoredLeaf
from pertinax._plan.boxes import Shape
from pertinax._tree.paths import Path, exact_path, path_text, text_path
from pertinax.errors import Misfit

_NUMBERS = ("jax", "numpy", "generic", "bool", "int", "float", "complex")
_SCALARS = ("bool", "int", "float", "complex")


@dataclass(frozen=True, slots=True)
class Pairing:
    """`stored[i]` is the position of the stored leaf for the i-th leaf of the target, None where
    the target's stays. `leaf_count` counts the leaves that were looked at, on either side.
    """

    stored: list[int | None]
    misfits: list[Misfit]
    leaf_count: int


_MAX_HINTS = 20
"""A near name is looked for this many times; it takes long, and nobody reads more."""


def _partners(leaves: Sequence[StoredLeaf], paths: Sequence[Path]) -> list[int | None]:
    """The stored leaf of each path: the one with the very keys, else the only one with the same
    keys as text.

    Orbax keeps no more than text of the keys, and a list may be stored where the target has a dict.
    No stored leaf is used twice.
    """
    exact = {exact_path(leaf.path): i for i, leaf in enumerate(leaves)}
    found = [exact.get(exact_path(path)) for path in paths]
    if None not in found:
        return found
    used = set(found)
    texts: dict[tuple[str, ...], int | None] = {}
    for i, leaf in enumerate(leaves):
        if i not in used:
            text = text_path(leaf.path)
            texts[text] = None if text in texts else i
    # `pop`: the first target leaf takes it.
    return [
        texts.pop(text_path(path), None) if i is None else i
        for i, path in zip(found, paths, strict=True)
    ]


def pair(
    leaves: Sequence[StoredLeaf],
    paths: Sequence[Path],
    wishes: Sequence[Wish],
    *,
    keepable: Sequence[bool],
    options: LoadOptions,
) -> Pairing:
    """Find the stored leaf for every leaf of the target. `keepable[i]`: the target's own leaf is a
    value, not a shape.
    """
    stored = _partners(leaves, paths)
    used = {i for i in stored if i is not None}
    unused = [leaf for i, leaf in enumerate(leaves) if i not in used]
    misfits: list[Misfit] = []
    hints = 0
    fits: dict[tuple[Any, ...], bool] = {}  # most leaves are alike, and most fit
    for path, wish, keep, found in zip(paths, wishes, keepable, stored, strict=True):
        if found is None:
            near = unused if hints < _MAX_HINTS else ()
            misfit = _missing(path, wish, near, keep=keep, options=options)
            hints += misfit is not None
        else:
            key = (leaves[found][2:], wish)
            if fits.get(key):
                continue
            misfit = fit(leaves[found], wish, path, options)
            fits[key] = misfit is None
        if misfit is not None:
            misfits.append(misfit)
    if options.extra == "error":
        misfits += [_extra(leaf) for leaf in unused]
    return Pairing(stored, misfits, len(paths) + (len(unused) if options.extra == "error" else 0))


def _extra(leaf: StoredLeaf) -> Misfit:
    return Misfit(
        path_text(leaf.path), stored_text(leaf), "nothing", 'extra="ignore" leaves it out'
    )


def _missing(
    path: Path, wish: Wish, leaves: Sequence[StoredLeaf], *, keep: bool, options: LoadOptions
) -> Misfit | None:
    if options.missing == "keep" and keep:
        return None
    text = path_text(path)
    near = difflib.get_close_matches(text, [path_text(leaf.path) for leaf in leaves[:2000]], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if options.missing == "keep":
        hint += "the target has only a shape here: give it an array to keep"
    else:
        hint += 'missing="keep" leaves yours'
    return Misfit(text, "nothing", wish_text(wish), hint)


def fit(leaf: StoredLeaf, wish: Wish, path: Path, options: LoadOptions) -> Misfit | None:
    """Why a stored leaf cannot become what is wished, or None if it can."""
    reasons = [_kind_misfit(leaf, wish)]
    if reasons == [None]:
        reasons = [
            _dtype_misfit(leaf, wish, options),
            _shape_misfit(leaf, wish, options) or _layout_misfit(leaf, wish),
        ]
    hint = "; ".join(reason for reason in reasons if reason is not None)
    return Misfit(path_text(path), stored_text(leaf), wish_text(wish), hint) if hint else None


def _kind_misfit(leaf: StoredLeaf, wish: Wish) -> str | None:
    if wish.kind in ("any", leaf.kind):
        if wish.kind == "key" and wish.impl not in (None, leaf.impl):
            return f"keys of {leaf.impl} mean nothing to {wish.impl}: make the target with that one"
        return None
    if leaf.kind in _NUMBERS and wish.kind in _NUMBERS and leaf.codec != "none":
        return None
    if leaf.codec == "none" and leaf.kind == "int" and wish.kind in ("jax", "numpy", "generic"):
        return "the integer is too large for an array: give an int"
    return f"stored as {leaf.kind}: give the target one too, or ... for whatever is stored"


def _dtype_misfit(leaf: StoredLeaf, wish: Wish, options: LoadOptions) -> str | None:
    if wish.kind in _SCALARS:
        if leaf.codec == "none" or wish.kind == leaf.kind or family(leaf.dtype) == wish.kind:
            return None
        if family(leaf.dtype) in ("complex", "time"):
            return f"{leaf.dtype} is no {wish.kind}: give an array, or ... for whatever is stored"
        return None if options.cast == "lossy" else 'cast="lossy" converts it'
    wanted = wish.dtype if wish.dtype is not None else leaf.dtype
    placed = wish.kind == "jax" or (wish.kind == "any" and leaf.kind == "jax")
    if placed and narrowed_by_jax(wanted):
        return 'JAX would cut it to 32 bits: set jax_enable_x64, or load with arrays="numpy"'
    if wish.dtype is None or wish.dtype == leaf.dtype or options.cast == "lossy":
        return None
    if leaf.kind in _SCALARS and wish.kind == "jax":
        return f'give the target a Python {leaf.kind}, as it was saved; or cast="lossy" converts it'
    if is_lossless(leaf.dtype, wish.dtype):
        return None if options.cast == "lossless" else 'cast="lossless" converts it'
    return 'cast="lossy" converts it and may lose digits'


def _shape_misfit(leaf: StoredLeaf, wish: Wish, options: LoadOptions) -> str | None:
    shape = visible_shape(leaf)
    wanted = () if wish.kind in _SCALARS else wish.shape
    if wanted is None or wanted == shape:
        return None
    if wish.kind in _SCALARS or len(wanted) != len(shape):
        return f"rank {len(shape)} cannot become rank {len(wanted)}"
    if wish.kind == "key":
        return "arrays of keys are not cut or padded"
    cut = any(a > b for a, b in zip(shape, wanted, strict=True))
    pad = any(a < b for a, b in zip(shape, wanted, strict=True))
    needed = "fit" if cut and pad else "cut" if cut else "pad"
    if options.shapes in (needed, "fit"):
        return None
    meaning = {"cut": "slices it", "pad": "fills it up with zeros", "fit": "slices and pads it"}
    return f'shapes="{needed}" {meaning[needed]}'


def _layout_misfit(leaf: StoredLeaf, wish: Wish) -> str | None:
    if wish.sharding is None:
        return None
    try:
        wish.sharding.shard_shape(wish.shape if wish.shape is not None else visible_shape(leaf))
    except ValueError as error:
        return f"the sharding does not divide it: {error}"
    return None


def visible_shape(leaf: StoredLeaf) -> Shape:
    """The shape that the program sees: an array of keys hides the last dimension of its data."""
    return leaf.shape[:-1] if leaf.kind == "key" else leaf.shape


def stored_text(leaf: StoredLeaf) -> str:
    """A stored leaf in few letters: `f32[1024,4096]`."""
    if leaf.kind == "foreign":
        return f"foreign {leaf.typestr}"
    if leaf.kind in ("str", "bytes") or leaf.codec == "none":
        return leaf.kind
    if leaf.kind == "key":
        return f"key<{leaf.impl}>{_dims(visible_shape(leaf))}"
    if leaf.kind in _SCALARS:
        return f"{leaf.kind} ({short_dtype(leaf.dtype)})"
    return f"{short_dtype(leaf.dtype)}{_dims(leaf.shape)}"


def wish_text(wish: Wish) -> str:
    """A wished leaf in few letters."""
    if wish.kind == "key":
        return f"key<{wish.impl}>{_dims(wish.shape or ())}"
    if wish.dtype is None:
        return wish.kind
    return f"{short_dtype(wish.dtype)}{_dims(wish.shape or ())}"


def _dims(shape: Shape) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def short_dtype(name: str) -> str:
    """`float32` as `f32`, as JAX prints it; names of eight bits and below stay whole."""
    if name == "bfloat16":
        return "bf16"
    for long, short in (("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c")):
        rest = name.removeprefix(long)
        if rest != name and rest.isdigit():
            return short + rest
    return name


def describe_misfits(misfits: Sequence[Misfit]) -> list[Any]:
    """Misfits sorted by path, as people look for them."""
    return sorted(misfits, key=lambda misfit: misfit.path)
