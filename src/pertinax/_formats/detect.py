# SPDX-License-Identifier: Apache-2.0
"""Detection: what lies at a path.

Knows the files that give each format away, and what people point at by mistake. Knows nothing of
their contents, except for one word in `_METADATA` and one in the ledger.
"""

from dataclasses import dataclass
from typing import Literal, final

from pertinax._formats.ledger import LEDGER_FILE
from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._formats.metadata.tree_metadata import PERTINAX_MARK, TREE_FILE
from pertinax._store.contract import Entry, Store

UNPUBLISHED_MARK = ".orbax-checkpoint-tmp"
"""What the name of an unpublished save contains; Orbax 0.12 puts nothing behind it, others do."""

DetectedKind = Literal["pertinax", "orbax", "step", "unfinished", "missing", "other"]
ItemKind = Literal["pertinax", "orbax", "other"]
_TAIL_BYTES = 64
_HEAD_BYTES = 1 << 12
_SAMPLE = 5
_ARRAY_FILES = (".zarray", "zarr.json")
AGGREGATE_FILE = "checkpoint"
"""The one file in which old releases kept the tree, and the values of small leaves."""
_CONTAINER_HEADS = frozenset({0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), *range(0xDC, 0xE0)})
"""Of MessagePack: extensions (a tuple, an array), long lists and long maps."""


@final
@dataclass(frozen=True, slots=True)
class Detected:
    """What lies at a path.

    Attributes:
        kind: `pertinax` an item with a ledger (or one that lost it: its `_METADATA` says there was
            one); `orbax` an item without; `step` a directory of items; `unfinished` a save that was
            never published; `missing` nothing; `other` anything else.
        items: the names of the items of a step, in order, with what each of them is.
        reason: for `other`, what it is instead and what to do, as a sentence without its subject.
    """

    kind: DetectedKind
    items: tuple[tuple[str, ItemKind], ...] = ()
    reason: str = ""


def detect(store: Store, path: str, *, aside: bool = False) -> Detected:
    """What lies at `path`. Lists the directory, and those below it if it is no item itself.

    `aside`: the name is a temporary one that an interrupted replacement gave a whole checkpoint.
    """
    path = path.rstrip("/") or "/"
    if not aside and UNPUBLISHED_MARK in path.rpartition("/")[2]:
        return Detected("unfinished" if store.stat(path) is not None else "missing")
    try:
        entries = store.list_dir(path)
    except FileNotFoundError:
        return Detected("missing")
    except NotADirectoryError:
        return Detected("other", reason="is a file; a checkpoint is a directory")
    kind = _item_kind(store, path, entries)
    if kind != "other":
        return Detected(kind)
    return _step_or_other(store, path, entries)


def _item_kind(store: Store, path: str, entries: list[Entry]) -> ItemKind:
    files = {entry.name for entry in entries if not entry.is_dir}
    if TREE_FILE in files:
        marked = LEDGER_FILE in files or _is_marked(store, f"{path}/{TREE_FILE}")
        return "pertinax" if marked else "orbax"
    # A ledger without its `_METADATA` still vouches for an item; above items it vouches for the
    # step's own files.
    if LEDGER_FILE in files and not _is_of_step(store, f"{path}/{LEDGER_FILE}"):
        return "pertinax"
    if AGGREGATE_FILE in files and _is_aggregate(store, f"{path}/{AGGREGATE_FILE}"):
        return "orbax"
    return "other"


def _is_of_step(store: Store, file: str) -> bool:
    """Whether a ledger says, in its first words, that it stands above items."""
    with store.open(file) as reader:
        head = reader.read(0, min(_HEAD_BYTES, reader.length))
    return b'"items":[' in head.partition(b'"container":')[0]


def _is_aggregate(store: Store, file: str) -> bool:
    """Whether a file may be a tree as old releases wrote it, by the head of its root: a map, a
    list or a tuple. Files of other programs have the same name, with text in them.
    """
    try:
        with store.open(file) as reader:
            head = reader.read(0, min(1, reader.length))
    except (FileNotFoundError, IsADirectoryError):  # a link to somewhere else
        return False
    return bool(head) and (0x80 <= head[0] < 0xA0 or head[0] in _CONTAINER_HEADS)


def _is_marked(store: Store, file: str) -> bool:
    """Whether `_METADATA` says that a ledger belongs to it; the mark is its last field."""
    with store.open(file) as reader:
        start = max(0, reader.length - _TAIL_BYTES)
        tail = reader.read(start, reader.length - start)
    return f'"{PERTINAX_MARK}": 1}}'.encode() in tail


def _step_or_other(store: Store, path: str, entries: list[Entry]) -> Detected:
    names = {entry.name for entry in entries}
    below = sorted(
        entry.name
        for entry in entries
        if entry.is_dir and UNPUBLISHED_MARK not in entry.name and not entry.name.startswith(".")
    )
    looks_like_step = bool(names & {STEP_FILE, LEDGER_FILE})
    steps = [name for name in below if _step_number(name) is not None]
    if steps and not looks_like_step and len(steps) >= len(below) - 1:
        return Detected("other", reason=_root_hint(path, steps))
    items: list[tuple[str, ItemKind]] = []
    for name in below:
        inner = f"{path}/{name}"
        items.append((name, _item_kind(store, inner, store.list_dir(inner))))
    found = [name for name, kind in items if kind != "other"]
    # Steps from before Orbax 0.5.11 have no notes; all that tells them apart is the usual name.
    if looks_like_step or "default" in found:
        return Detected("step", tuple(items))
    if found:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        return Detected("other", reason=f"holds checkpoints ({listed}): load {path}/{found[0]}")
    arrays = [
        name
        for name in below[:_SAMPLE]
        if any(store.stat(f"{path}/{name}/{key}") is not None for key in _ARRAY_FILES)
    ]
    return Detected("other", reason=_array_hint(arrays) if arrays else _other_hint(names))


def _step_number(name: str) -> int | None:
    """The step that a directory's name ends in: `12`, `step_12`, `run-0012`."""
    digits = name[len(name.rstrip("0123456789")) :]
    prefix = name[: len(name) - len(digits)]
    return (
        int(digits) if digits.isascii() and digits and (not prefix or prefix[-1] in "_-") else None
    )


def _root_hint(path: str, steps: list[str]) -> str:
    ordered = sorted(steps, key=lambda name: _step_number(name) or 0)
    listed = ", ".join(ordered if len(ordered) <= 5 else [*ordered[:2], "...", *ordered[-2:]])
    return (
        f"looks like a root of steps ({listed}): use Manager({path!r}), "
        f"or one of them, {path.rstrip('/')}/{ordered[-1]}"
    )


def _array_hint(arrays: list[str]) -> str:
    return (
        f"has arrays ({', '.join(arrays)}) but no {TREE_FILE}, so nothing says what tree they "
        "make; pertinax.checkpoint.PyTreeCheckpointHandler(use_ocdbt=False) makes one of names"
    )


def _other_hint(names: set[str]) -> str:
    if not names:
        return "is an empty directory"
    unfinished = sorted(name for name in names if UNPUBLISHED_MARK in name)
    if unfinished:
        return f"holds only saves that were never published: {', '.join(unfinished[:3])}"
    if names & set(_ARRAY_FILES):
        return f"has no {TREE_FILE}: it is a bare array"
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"has neither {LEDGER_FILE} nor {TREE_FILE}, nor has a directory in it; it has {shown}"
