# SPDX-License-Identifier: Apache-2.0
"""What a power cut leaves of files and names that were not synced.

Knows the nodes of the memory store, and which of their changes are durable. Knows nothing of
programs that make them, nor of when they die.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, final

from pertinax._store.memory import DirNode, FileNode, MemoryStore, Node

_EXHAUSTIVE_NAMES: Final = 6
_SECTOR_BYTES: Final = 512
_PAGE_BYTES: Final = 4096

Survival = Literal["nothing", "everything", "some"]


@dataclass(slots=True, eq=False)
class _FileRecord:
    """Bytes on the platter, and writes on the way there."""

    durable: bytes
    pending: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])


@dataclass(frozen=True, slots=True, eq=False)
class _NameChange:
    """What one operation changed in one directory: survives as a whole or not at all."""

    holder: DirNode
    edits: dict[str, Node | None]


@final
class Journal:
    """The durable side of a simulated disk. The caller serialises."""

    def __init__(self, root: DirNode) -> None:
        self._root = root
        self._files: dict[FileNode, _FileRecord] = {}
        self._names: dict[DirNode, dict[str, Node]] = {}
        self._changes: list[_NameChange] = []
        self._adopt(root)

    def new_file(self, node: FileNode) -> None:
        """A file was created: nothing of it is durable, not even its length."""
        self._files[node] = _FileRecord(b"")

    def write(self, node: FileNode, offset: int, content: bytes) -> None:
        """Bytes were written, or were about to be."""
        self._files[node].pending.append((offset, content))

    def sync(self, node: FileNode) -> None:
        """The bytes of a file are durable."""
        self._files[node] = _FileRecord(bytes(node.content))

    def name(self, places: Sequence[tuple[DirNode, str]]) -> None:
        """These names have changed, all at once as far as they lie in one directory.

        A rename between two directories is two changes: no disk must keep both or neither.
        """
        edits: dict[DirNode, dict[str, Node | None]] = {}
        for holder, name in places:
            edits.setdefault(holder, {})[name] = holder.names.get(name)
        self._changes += [_NameChange(holder, names) for holder, names in edits.items()]

    def sync_dir(self, holder: DirNode) -> None:
        """The names in a directory are durable."""
        self._names[holder] = dict(holder.names)
        self._changes = [change for change in self._changes if change.holder is not holder]

    def crash_states(self, limit: int, seed: int) -> Iterator[MemoryStore]:
        """Disks after a power cut, see `CrashingStore.crash_states`."""
        rng = random.Random(seed)
        count = len(self._changes)
        plans: Iterator[tuple[tuple[bool, ...], Survival]] = itertools.chain(
            [((False,) * count, "nothing"), ((True,) * count, "everything")],
            self._name_subsets(rng),
            ((tuple(rng.choices((False, True), k=count)), "some") for _ in itertools.count()),
        )
        for kept, survival in itertools.islice(plans, limit):
            chosen = [change for change, keep in zip(self._changes, kept, strict=True) if keep]
            yield MemoryStore(self._dir_after(self._root, chosen, survival, rng))

    def _name_subsets(self, rng: random.Random) -> Iterator[tuple[tuple[bool, ...], Survival]]:
        count = len(self._changes)
        if count <= _EXHAUSTIVE_NAMES:
            subsets = list(itertools.product((False, True), repeat=count))
        else:
            # One name lost and all others kept finds most mistakes in the order of syncs.
            subsets = [tuple(i != lost for i in range(count)) for lost in range(count)]
        rng.shuffle(subsets)  # a low limit cuts a sample, not a corner
        for kept in subsets:
            yield kept, "nothing"
            yield kept, "some"

    def _adopt(self, node: Node) -> None:
        if isinstance(node, FileNode):
            self._files[node] = _FileRecord(bytes(node.content))
            return
        self._names[node] = dict(node.names)
        for child in node.names.values():
            self._adopt(child)

    def _dir_after(
        self, node: DirNode, chosen: list[_NameChange], survival: Survival, rng: random.Random
    ) -> DirNode:
        names: dict[str, Node] = dict(self._names.get(node, {}))
        for change in chosen:
            if change.holder is not node:
                continue
            for name, target in change.edits.items():
                names.pop(name, None)
                if target is not None:
                    names[name] = target
        after: dict[str, Node] = {}
        for name, child in names.items():
            if isinstance(child, DirNode):
                after[name] = self._dir_after(child, chosen, survival, rng)
            else:
                after[name] = FileNode(_bytes_after(self._files[child], child, survival, rng))
        return DirNode(after)


def copy_tree(node: DirNode) -> DirNode:
    """A deep copy."""
    return DirNode(
        {
            name: copy_tree(child) if isinstance(child, DirNode) else FileNode(bytes(child.content))
            for name, child in node.names.items()
        }
    )


def _bytes_after(
    record: _FileRecord, node: FileNode, survival: Survival, rng: random.Random
) -> bytes:
    if survival == "nothing":
        return record.durable
    if survival == "everything":
        return bytes(node.content)
    ends = [offset + len(content) for offset, content in record.pending]
    longest = max([len(record.durable), len(node.content), *ends])
    unit = rng.choice((_SECTOR_BYTES, _PAGE_BYTES))
    partial = min(longest, rng.randrange(longest + 1) // unit * unit)
    # Never shorter than what was synced: no call of the contract shortens a file.
    length = max(len(record.durable), rng.choice((len(record.durable), longest, partial)))
    content = bytearray(length)
    content[: len(record.durable)] = record.durable
    for offset, written in record.pending:
        _apply_torn(content, offset, written, unit, rng)
    return bytes(content)


def _apply_torn(
    content: bytearray, offset: int, written: bytes, unit: int, rng: random.Random
) -> None:
    """Let each unit of a write survive or not; a few of the others turn to garbage."""
    share = rng.choice((0.0, 0.5, 1.0))
    stop = min(len(content), offset + len(written))
    start = offset
    while start < stop:
        end = min(stop, (start // unit + 1) * unit)
        if rng.random() < share:
            content[start:end] = written[start - offset : end - offset]
        elif rng.random() < 0.1:
            content[start:end] = rng.randbytes(end - start)
        start = end
