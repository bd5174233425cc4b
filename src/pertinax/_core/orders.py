# SPDX-License-Identifier: Apache-2.0
"""Orders: stored leaves on their way to live values, a bounded number of bytes at a time.

Knows how an order (which leaf, as what) is carried out: fetch, cast, fit, place. Knows nothing of
targets, of matching, or of why an order was given.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._core.casts import cast_array, family
from pertinax._core.chunk_bytes import Stored
from pertinax._core.fetch import Fetcher, Request
from pertinax._core.open import Opened, SecondReading
from pertinax._core.options import LoadOptions
from pertinax._device.place import BoxesWanted, Parts, place, view_as
from pertinax._device.snapshot import fresh_array
from pertinax._device.wishes import Wish
from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Box, Shape
from pertinax._plan.chunks import chunk_box, chunks_touching
from pertinax._plan.slabs import slabs
from pertinax._tree.paths import path_text
from pertinax.errors import UnsupportedLeaf

_AS_THEY_ARE = ("raw", "flat", "none")
"""Codecs whose stored bytes are those of the elements."""
_NOT_IN_PARTS = ("flat", "none", "tensorstore")
"""Codecs of which a part costs as much as the whole."""


class Order(NamedTuple):
    """One stored leaf (by its position in the manifest) and what shall become of it."""

    leaf: int
    wish: Wish


def boxes_of(orders: Sequence[Order], leaves: Sequence[StoredLeaf]) -> Iterator[tuple[int, Box]]:
    """What must be fetched to carry out `orders` here: boxes of leaves, by position."""
    wanted = BoxesWanted()
    for order in orders:
        leaf = leaves[order.leaf]
        if leaf.codec == "none":
            continue
        shape = _shape_wanted(order, leaf)
        for box in wanted.of(order.wish, shape):
            yield order.leaf, box if shape == leaf.shape else _inside(box, leaf.shape)


def carry_out(
    opened: Opened,
    orders: Sequence[Order],
    options: LoadOptions,
    *,
    gathered: Stored | None = None,
    beside: Sequence[int] | None = None,
) -> list[Any]:
    """The values for `orders`, in order; no more than the budget is in flight at a time.

    `gathered` has the bytes of all rows of the chunk table, where they are in memory already.
    `beside`: the data files are checked to their last byte as far as these orders go, with the
    padding between chunks; and so are these rows of the chunk table.
    Orders are carried out as they are: whoever gives them has matched them against the manifest.
    """
    manifest = opened.manifest
    out: list[Any] = [None] * len(orders)
    stored: list[int] = []
    elsewhere: list[int] = []
    for i, order in enumerate(orders):
        if manifest.leaves[order.leaf].codec == "none":
            out[i] = manifest.values[order.leaf]
        elif opened.second is not None and order.leaf in opened.second.leaves:
            elsewhere.append(i)
        else:
            stored.append(i)
    if elsewhere and opened.second is not None:
        moved = [orders[i] for i in elsewhere]
        values = _carry_out_elsewhere(opened, opened.second, moved, options)
        for i, value in zip(elsewhere, values, strict=True):
            out[i] = value
    with Fetcher(
        opened.store,
        opened.directory,
        manifest,
        use_map=options.mmap,
        threads=options.threads,
        gathered=gathered,
        padding=beside is not None,
    ) as fetcher:
        left = beside or ()
        for group in _groups(stored, orders, manifest.leaves, options.budget_bytes):
            together = [orders[i] for i in group]
            if _needs_slabs(together, manifest.leaves, options.budget_bytes):
                values = _fetch_in_slabs(
                    together[0], manifest.leaves, fetcher, options.budget_bytes
                )
            else:
                values = _fetch_group(together, manifest.leaves, fetcher, left)
                left = ()
            for i, value in zip(group, values, strict=True):
                out[i] = value
        if left:
            fetcher.fetch((), beside=left)
        for error in fetcher.check_edges():
            raise error
    return out


def _carry_out_elsewhere(
    opened: Opened, second: SecondReading, orders: Sequence[Order], options: LoadOptions
) -> list[Any]:
    """Only whole files are vouched for there: they are checked first, all of them."""
    # Few items need it, and none that the front door has written.
    from pertinax._core.foreign import check_before_others_read

    check_before_others_read(opened, frozenset())
    moved = [Order(second.leaves[order.leaf], order.wish) for order in orders]
    return carry_out(second.opened, moved, options)


def _groups(
    picked: Sequence[int], orders: Sequence[Order], leaves: Sequence[StoredLeaf], budget_bytes: int
) -> Iterator[list[int]]:
    sizes: dict[tuple[Shape, str, str], int] = {}
    group: list[int] = []
    weight = 0
    for i in picked:
        leaf = leaves[orders[i].leaf]
        key = (leaf.shape, leaf.storage_dtype, leaf.codec)
        if key not in sizes:
            sizes[key] = _weight(leaf)
        if group and weight + sizes[key] > budget_bytes:
            yield group
            group, weight = [], 0
        group.append(i)
        weight += sizes[key]
    if group:
        yield group


def _weight(leaf: StoredLeaf) -> int:
    """Bytes in flight while all of a leaf is fetched: encoded ones are there twice."""
    raw = math.prod(leaf.shape) * numpy_dtype(leaf.storage_dtype or "uint8").itemsize
    return raw if leaf.codec in _AS_THEY_ARE else 2 * raw


def _fetch_group(
    orders: Sequence[Order],
    leaves: Sequence[StoredLeaf],
    fetcher: Fetcher,
    beside: Sequence[int],
) -> list[Any]:
    wanted = BoxesWanted()
    requests: list[Request] = []
    shapes: list[tuple[Shape, tuple[Box, ...]]] = []
    for order in orders:
        leaf, wish = leaves[order.leaf], order.wish
        shape = _shape_wanted(order, leaf)
        boxes = wanted.of(wish, shape)
        shapes.append((shape, boxes))
        requests += [
            Request(order.leaf, box if shape == leaf.shape else _inside(box, leaf.shape))
            for box in boxes
        ]
    fetched = iter(fetcher.fetch(requests, beside=beside))
    return place(
        [
            Parts(
                order.wish if boxes else _with_dtype(order.wish, leaves[order.leaf]),
                shape,
                boxes,
                tuple(_finish(next(fetched), box, leaves[order.leaf], order.wish) for box in boxes),
            )
            for order, (shape, boxes) in zip(orders, shapes, strict=True)
        ]
    )


def _shape_wanted(order: Order, leaf: StoredLeaf) -> Shape:
    wish = order.wish
    return leaf.shape if wish.shape is None or leaf.kind == "key" else wish.shape


def _needs_slabs(orders: Sequence[Order], leaves: Sequence[StoredLeaf], budget_bytes: int) -> bool:
    """Whether it is one leaf, more than the budget, and what is fetched is not yet its value."""
    order, leaf = orders[0], leaves[orders[0].leaf]
    if len(orders) > 1 or _weight(leaf) <= budget_bytes or leaf.codec in _NOT_IN_PARTS:
        return False
    shape = _shape_wanted(order, leaf)
    if leaf.codec != "raw" or shape != leaf.shape or order.wish.dtype not in (None, leaf.dtype):
        return True
    for box in BoxesWanted().of(order.wish, shape):
        touched = list(itertools.islice(chunks_touching(box, leaf.chunk_shape), 2))
        if len(touched) != 1 or chunk_box(touched[0], leaf.chunk_shape, shape) != box:
            return True
    return False


def _fetch_in_slabs(
    order: Order, leaves: Sequence[StoredLeaf], fetcher: Fetcher, budget_bytes: int
) -> list[Any]:
    """The value of one order, while no more than the budget, or one chunk, is in flight.

    A slab goes across all boxes: chunks that several of them need are read once.
    """
    leaf, wish = leaves[order.leaf], order.wish
    shape = _shape_wanted(order, leaf)
    boxes = BoxesWanted().of(wish, shape)
    encoded = leaf.codec not in _AS_THEY_ARE
    copies = 1 + encoded + (shape != leaf.shape or wish.dtype not in (None, leaf.dtype))
    limit = budget_bytes // (numpy_dtype(leaf.storage_dtype).itemsize * copies)
    out: dict[int, NDArray[Any]] = {}
    for slab in slabs(Box.whole(shape), leaf.chunk_shape, max(1, limit), whole_chunks=encoded):
        common = {i: part for i, box in enumerate(boxes) if (part := box.intersect(slab))}
        requests = [
            Request(order.leaf, part if shape == leaf.shape else _inside(part, leaf.shape))
            for part in common.values()
        ]
        fetched = fetcher.fetch(requests)
        fetched.reverse()  # each goes as soon as it is copied
        for i, part in common.items():
            values = _finish(fetched.pop(), part, leaf, wish)
            if part == boxes[i]:
                out[i] = values
                continue
            if i not in out:
                out[i] = fresh_array(boxes[i].shape, values.dtype)
            out[i][part.relative_to(boxes[i].start).slices] = values
    arrays = tuple(out[i] for i in range(len(boxes)))
    return place([Parts(wish if boxes else _with_dtype(wish, leaf), shape, boxes, arrays)])


def _with_dtype(wish: Wish, leaf: StoredLeaf) -> Wish:
    """Where nothing is fetched, there are no elements to tell it."""
    return wish._replace(dtype=wish.dtype or leaf.dtype)


def _inside(box: Box, shape: Shape) -> Box:
    """The part of a wanted box that is stored; an empty box if none of it is."""
    common = box.intersect(Box.whole(shape))
    return common if common is not None else Box((0,) * len(shape), (0,) * len(shape))


def _finish(array: NDArray[Any], box: Box, leaf: StoredLeaf, wish: Wish) -> NDArray[Any]:
    """Stored elements in the dtype and shape that the reader wants."""
    array = view_as(array, numpy_dtype(leaf.dtype))
    if wish.kind == "int" and family(leaf.dtype) == "float" and not np.isfinite(array).all():
        raise UnsupportedLeaf(
            f"leaf {path_text(leaf.path)!r} is {array.item()}, and no int can be: give a float"
        )
    if wish.dtype is not None and wish.dtype != leaf.dtype:
        array = cast_array(array, wish.dtype)
    if array.shape == box.shape:
        return array
    out = fresh_array(box.shape, array.dtype)
    common = _inside(box, leaf.shape)
    if common.size:
        out[common.relative_to(box.start).slices] = array
    return out
