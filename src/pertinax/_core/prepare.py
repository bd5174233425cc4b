# SPDX-License-Identifier: Apache-2.0
"""Preparing a save: from a live tree to everything that the writer thread needs.

Knows the first half of a save, the one on the caller's thread: understand the leaves, plan, hold
the bytes. Knows nothing of directories. When it is done, the caller may donate, delete or overwrite
all that was passed in.
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pertinax._core.options import SaveOptions
from pertinax._core.plans import Planned, Plans
from pertinax._device.inspect import Inspector, LiveLeaf
from pertinax._device.recast import recast
from pertinax._device.recognise import Known, remember
from pertinax._device.snapshot import Mode, take
from pertinax._formats.directory.names import unfit_names
from pertinax._formats.item import Described, ItemContent
from pertinax._formats.layout import Layout
from pertinax._formats.manifest import Codec, StoredLeaf
from pertinax._formats.metadata.names import OrbaxName, orbax_names
from pertinax._formats.zarr.dtypes import native_name, numpy_dtype, storage_dtype
from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import choose_chunk_shape
from pertinax._plan.topology import Topology
from pertinax._plan.write import SMALL_BYTES, ArrayPieces, plan_write
from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.paths import path_text
from pertinax._tree.quiet import collector_paused
from pertinax.errors import InvalidOption, UnsupportedLeaf

_TENSORSTORE_FILE_BYTES = 1 << 31
"""Orbax's readers expect no chunk above the default size of their data files."""
_DUST_BYTES = 1 << 20
"""Chunks divide a shard evenly: one that is long, and whose length is a prime number, would be cut
into its elements. It stays whole instead, unless the caller insists on a limit."""
_DUST_PARTS = 16
"""How many times smaller than a small limit a chunk is dust, too."""


class _Limit(NamedTuple):
    """The bytes of a chunk; `firm` if the caller said so, else it comes from the size of files."""

    bytes: int
    firm: bool


def prepare(
    tree: Any, options: SaveOptions, mode: Mode, topology: Topology, plans: Plans | None = None
) -> ItemContent:
    """Understand `tree`, plan what of its bytes this process writes, and hold those still.

    What `plans` remembers of a save before need not be worked out again. Raises `UnsupportedLeaf`,
    `InvalidOption` or `UnsupportedTopology`; nothing has been written by then.
    """
    return prepare_flat(take_apart(tree, plans), options, mode, topology, plans=plans)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What somebody else decides about a save.

    Attributes:
        typestrs: leaves that somebody else writes, by position, with the name of their type.
        names: what leaves are called in the item, if not by their usual names.
    """

    typestrs: Mapping[int, str] = field(default_factory=dict[int, str])
    names: Sequence[str] | None = None


def prepare_flat(
    flat: Flat,
    options: SaveOptions,
    mode: Mode,
    topology: Topology,
    elsewhere: Elsewhere | None = None,
    *,
    plans: Plans | None = None,
) -> ItemContent:
    """The same for a tree that was taken apart already."""
    elsewhere = elsewhere or Elsewhere()
    question = (options, topology, elsewhere)
    with collector_paused(len(flat.leaves)):
        found = None if plans is None else plans.find(flat, question)
        if found is None:
            live = _understand(flat, topology, elsewhere)
            known = [] if plans is None else list(map(remember, flat.leaves, live))
        else:
            live, known = found[1], found[0].known
        if options.dtypes is not None:
            live = _recast(live, options.dtypes)
        if found is None:
            planned = _plan(flat, live, known, question)
            if plans is not None:
                plans.keep(planned)
        else:
            planned = found[0]
        snapshot = take(planned.plan, live, flat.paths, mode, pinned=options.pinned)
    return ItemContent(
        flat.root,
        planned.stored,
        {i: leaf.value for i, leaf in enumerate(live) if leaf.value is not None},
        planned.names,
        planned.write_shapes,
        planned.plan,
        snapshot,
        Layout.named(options.layout, options.taken_name),
        described=planned.described,
    )


def _understand(flat: Flat, topology: Topology, elsewhere: Elsewhere) -> list[LiveLeaf]:
    inspector = Inspector(topology)
    return [
        LiveLeaf("foreign") if i in elsewhere.typestrs else inspector.look(value, path)
        for i, (value, path) in enumerate(zip(flat.leaves, flat.paths, strict=True))
    ]


def _plan(
    flat: Flat,
    live: Sequence[LiveLeaf],
    known: Sequence[Known],
    question: tuple[SaveOptions, Topology, Elsewhere],
) -> Planned:
    """All that does not depend on the bytes of leaves."""
    options, _, elsewhere = question
    typestrs = elsewhere.typestrs
    limits = _limits(options, len(live))
    layout = Layout.named(options.layout, options.taken_name)
    texts = {i for i, leaf in enumerate(live) if leaf.value is not None}
    texts |= {i for i, typestr in typestrs.items() if typestr == "string"}
    names = _names(flat, texts, elsewhere.names)
    leaf_names = [name for name in names if name.node.kind == "leaf"]
    stored = _stored(live, leaf_names, limits, "zstd" if options.compression == "zstd" else "raw")
    for i, typestr in typestrs.items():
        stored[i] = stored[i]._replace(typestr=typestr)
    if layout.container == "directory":
        _refuse_unfit(stored, layout)
    plan = plan_write(
        [
            ArrayPieces(
                i,
                leaf.shape,
                s.chunk_shape,
                numpy_dtype(s.storage_dtype).itemsize,
                leaf.boxes,
                s.codec != "raw",
            )
            for i, (leaf, s) in enumerate(zip(live, stored, strict=True))
            if leaf.boxes
        ],
        file_bytes=options.file_bytes or 0,
    )
    return Planned(
        Flat([], flat.paths, flat.root),
        question,
        known,
        stored,
        names,
        [leaf.write_shape for leaf in live],
        plan,
        Described(),
    )


def _names(flat: Flat, texts: AbstractSet[int], given: Sequence[str] | None) -> list[OrbaxName]:
    """Raises `InvalidOption` if given names are not one for each leaf, all distinct."""
    usual = orbax_names(flat.root, texts)
    if given is None:
        return usual
    if len(given) != len(flat.leaves) or len(set(given)) < len(given):
        raise InvalidOption(
            f"{len(set(given))} distinct names for {len(flat.leaves)} leaves: each needs its own"
        )
    names = iter(given)
    return [name._replace(name=next(names)) if name.node.kind == "leaf" else name for name in usual]


def _refuse_unfit(stored: Sequence[StoredLeaf], layout: Layout) -> None:
    arrays = (leaf.name for leaf in stored if leaf.codec != "none")
    unfit = unfit_names(arrays, layout.metadata_key, taken=layout.taken)
    if unfit:
        listed = "".join(f"\n  {name!r:.80}: {reason}" for name, reason in sorted(unfit.items()))
        raise InvalidOption(
            f"{len(unfit)} leaves cannot have a directory of their own: rename them, or choose a "
            f"layout of few files (ocdbt){listed}"
        )


def take_apart(tree: Any, plans: Plans | None = None) -> Flat:
    """The leaves of a live tree and its skeleton. Raises `UnsupportedLeaf`."""
    try:
        return flatten(tree) if plans is None else plans.take_apart(tree)
    except (ValueError, RecursionError) as error:
        raise UnsupportedLeaf(f"the tree cannot be taken apart: {error}") from error


def _recast(live: Sequence[LiveLeaf], dtypes: Sequence[str | None]) -> list[LiveLeaf]:
    if len(dtypes) != len(live):
        raise InvalidOption(f"dtypes lists {len(dtypes)} dtypes for {len(live)} leaves")
    return [
        leaf if name is None or leaf.kind == "foreign" else recast(leaf, numpy_dtype(name))
        for leaf, name in zip(live, dtypes, strict=True)
    ]


def _limits(options: SaveOptions, count: int) -> list[_Limit | None]:
    given = options.chunk_bytes
    limits = [given] * count if given is None or isinstance(given, int) else list(given)
    if len(limits) != count:
        raise InvalidOption(f"chunk_bytes lists {len(limits)} limits for {count} leaves")
    file_bytes = _TENSORSTORE_FILE_BYTES if options.file_bytes is None else options.file_bytes
    if options.layout.startswith("directory") or not file_bytes:
        return [None if n is None else _Limit(n, firm=True) for n in limits]
    return [
        _Limit(file_bytes, firm=False) if n is None or n > file_bytes else _Limit(n, firm=True)
        for n in limits
    ]


def _stored(
    live: Sequence[LiveLeaf],
    names: Sequence[OrbaxName],
    limits: Sequence[_Limit | None],
    codec: Codec,
) -> list[StoredLeaf]:
    # Trees have thousands of leaves and few kinds of them: what depends on the kind alone is worked
    # out once.
    known: dict[tuple[Any, ...], tuple[str, Shape, Codec]] = {}
    out: list[StoredLeaf] = []
    for leaf, name, limit in zip(live, names, limits, strict=True):
        if leaf.value is not None or leaf.kind == "foreign":
            out.append(StoredLeaf(name.path, name.name, leaf.kind, codec="none"))  # type: ignore[arg-type]
            continue
        key = (leaf.dtype, leaf.shape, leaf.write_shape, limit)
        if key not in known:
            known[key] = _layout(leaf, path_text(name.path), limit, codec)
        storage, chunk_shape, how = known[key]
        out.append(
            StoredLeaf(
                name.path,
                name.name,
                leaf.kind,  # type: ignore[arg-type] - one of the names of LeafKind
                leaf.dtype,
                leaf.shape,
                storage,
                chunk_shape,
                how,
                leaf.sharding,
                leaf.impl,
            )
        )
    return out


def _layout(
    leaf: LiveLeaf, path: str, limit: _Limit | None, codec: Codec
) -> tuple[str, Shape, Codec]:
    """Storage dtype, chunk shape and codec of one kind of leaf."""
    try:
        storage = storage_dtype(
            native_name(leaf.dtype) if leaf.dtype.startswith(">") else leaf.dtype
        )
        itemsize = numpy_dtype(storage).itemsize
        shape = _chunk_shape(leaf, itemsize, limit)
    except ValueError as error:
        raise UnsupportedLeaf(
            f"leaf {path!r} of {leaf.dtype}{list(leaf.shape)}: {error}"
        ) from error
    # Compressing small ones saves nothing that anybody would miss.
    small = math.prod(leaf.shape) * itemsize < SMALL_BYTES
    return storage, shape, "raw" if small else codec


def _chunk_shape(leaf: LiveLeaf, itemsize: int, limit: _Limit | None) -> Shape:
    whole = tuple(max(1, n) for n in leaf.write_shape)
    if limit is None:
        return whole
    most = limit.bytes if limit.firm else max(limit.bytes, itemsize)
    shape = choose_chunk_shape(leaf.shape, leaf.write_shape, itemsize=itemsize, limit_bytes=most)
    dust = min(_DUST_BYTES, most // _DUST_PARTS)
    if not limit.firm and shape != whole and math.prod(shape) * itemsize < dust:
        return whole
    return shape
