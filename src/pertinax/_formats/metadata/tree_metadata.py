# SPDX-License-Identifier: Apache-2.0
"""`_METADATA`: the tree of an item as Orbax sees it.

Knows its entries, their key and value types, and the skeleton that they describe. Knows nothing of
arrays or files.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Literal, NamedTuple, cast

from pertinax._formats.metadata.names import KeyType, OrbaxName
from pertinax._formats.metadata.text import Json
from pertinax._plan.boxes import Shape
from pertinax._tree.paths import Key, Path
from pertinax._tree.skeleton import LEAF, MAX_DEPTH, NONE, Node

TREE_FILE = "_METADATA"
PERTINAX_MARK = "pertinax"
"""An extra field of ours: where it stands, a ledger must stand too."""
_EVERY_CHUNK = "store_array_data_equal_to_fill_value"
_EMPTY: Mapping[str, Node] = {
    "None": NONE,
    "Dict": Node("dict"),
    "List": Node("list"),
    "Tuple": Node("tuple"),
}


class ValueEntry(NamedTuple):
    """What `_METADATA` says of one leaf or empty container, apart from its place."""

    value_type: str
    write_shape: Shape | None = None

    @property
    def skip(self) -> bool:
        """Whether nothing is stored but this entry."""
        return self.value_type in _EMPTY


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One leaf as read. `name` is its parameter name.

    Of an `aggregated` one an old release kept the `value` in another file, together with those of
    other leaves.
    """

    path: Path
    name: str
    value_type: str
    aggregated: bool = False
    value: Any = None


@dataclass(frozen=True, slots=True)
class TreeMetadata:
    """All that `_METADATA` says.

    `entries` has the leaves in the order of `root`. `marked` is whether Pertinax wrote it.
    `every_chunk`: also chunks that equal the fill value were written, so that a missing one is
    lost. `typed` is whether the types of leaves are known, or but guessed at.
    """

    root: Node
    entries: tuple[TreeEntry, ...]
    use_zarr3: bool = False
    use_ocdbt: bool | None = None
    marked: bool = False
    custom: Any = None
    every_chunk: bool = False
    typed: bool = True


def empty_of(value_type: str) -> Node | None:
    """The empty container that a value type names, None for types of leaves."""
    return _EMPTY.get(value_type)


def empty_value_type(node: Node) -> str:
    """The value type of an empty container."""
    if node.kind in ("dict", "ordered_dict", "default_dict") or node.is_mapping:
        return "Dict"
    return {"list": "List", "tuple": "Tuple"}.get(node.kind, "None")


def encode_tree(
    entries: Iterable[tuple[OrbaxName, ValueEntry]],
    *,
    use_ocdbt: bool,
    use_zarr3: bool,
    marked: bool = True,
    custom: Any = None,
) -> bytes:
    """`_METADATA`, as `json.dumps` would write it, from entries in flattening order."""
    # Put together by hand: json.dumps of the same values takes four times as long, and this is done
    # per leaf.
    shapes: dict[tuple[str, Shape | None], str] = {}
    lines: list[str] = []
    for name, value in entries:
        key = (value.value_type, value.write_shape)
        text = shapes.get(key)
        if text is None:
            text = shapes[key] = _encode_value(value)
        keys = ", ".join(
            [
                f'{{"key": {_quoted(part)}, "key_type": {kind}}}'
                for part, kind in zip(name.keys, name.key_types, strict=True)
            ]
        )
        lines.append(f'{_quoted(str(name.keys))}: {{"key_metadata": [{keys}], {text}}}')
    tail = {
        "use_ocdbt": use_ocdbt,
        "use_zarr3": use_zarr3,
        _EVERY_CHUNK: True,
        "custom_metadata": custom,
    }
    if marked:
        tail[PERTINAX_MARK] = 1
    return f'{{"tree_metadata": {{{", ".join(lines)}}}, {json.dumps(tail)[1:]}'.encode()


def _encode_value(value: ValueEntry) -> str:
    fields: dict[str, Any] = {"value_type": value.value_type, "skip_deserialize": value.skip}
    if value.write_shape is not None:
        fields["write_shape"] = value.write_shape
    return f'"value_metadata": {json.dumps(fields)}'


def decode_tree(data: bytes, file: str = TREE_FILE) -> TreeMetadata:
    """What `_METADATA` says. Raises `CorruptCheckpoint` for anything that is no such file."""
    top = Json.parse(data, file)
    builder = _Builder()
    for text, entry in top.field("tree_metadata").object().items():
        _add_entry(builder, text, entry)
    root, entries = builder.build(top)
    use_ocdbt = top.field("use_ocdbt")
    return TreeMetadata(
        root=root,
        entries=tuple(entries),
        use_zarr3=top.field("use_zarr3").flag(default=False),
        use_ocdbt=None if use_ocdbt.value is None else use_ocdbt.flag(default=True),
        marked=top.field(PERTINAX_MARK).value is not None,
        custom=top.field("custom_metadata").value,
        every_chunk=top.field(_EVERY_CHUNK).value is True,
    )


def _add_entry(builder: "_Builder", text: str, entry: Json) -> None:
    plain = _plain_entry(entry.value)
    if plain is not None:
        builder.add(*plain, entry)
        return
    keys: list[tuple[str, KeyType]] = []
    for key in entry.field("key_metadata").array():
        kind = cast("KeyType", key.field("key_type").integer(1, 2))
        keys.append((key.field("key").text(), kind))
    if len(keys) > MAX_DEPTH:
        entry.corrupt(f"{text:.80} is nested more than {MAX_DEPTH} deep")
    value = entry.field("value_metadata")
    value_type = value.field("value_type").text()
    if value.field("skip_deserialize").flag(default=False) and value_type not in _EMPTY:
        value_type = _Aggregated(value_type)
    builder.add(keys, value_type, entry)


def _plain_entry(value: Any) -> tuple[list[tuple[str, KeyType]], str] | None:
    """Keys and value type of an entry that is as it should be: the short way for nearly all."""
    try:
        keys = [(key["key"], key["key_type"]) for key in value["key_metadata"]]
        about = value["value_metadata"]
        value_type, skip = about["value_type"], about["skip_deserialize"]
    except (TypeError, KeyError):
        return None
    if type(value_type) is not str or skip is not (value_type in _EMPTY) or len(keys) > MAX_DEPTH:
        return None
    for text, kind in keys:
        if type(text) is not str or type(kind) is not int or not 1 <= kind <= 2:
            return None
    return keys, value_type


class _Aggregated(str):
    """The type of a leaf whose value is in another file."""

    __slots__ = ()


class _Builder:
    """Grows a tree of dicts from entries, then turns it into a skeleton."""

    def __init__(self) -> None:
        self.root: _Branch | str | None = None

    def add(self, keys: Sequence[tuple[str, KeyType]], value_type: str, entry: Json) -> None:
        if not keys:
            if self.root is not None:
                entry.corrupt("the root cannot be both a leaf and a container")
            self.root = value_type
            return
        if self.root is None:
            self.root = _Branch(keys[0][1])
        branch = self.root
        for depth, (text, kind) in enumerate(keys):
            if isinstance(branch, str) or branch.kind != kind:
                entry.corrupt(f"{_place(keys[:depth])} cannot be two things at once")
            key = _index(text, entry) if kind == 1 else text
            if depth == len(keys) - 1:
                if key in branch.below:
                    entry.corrupt(f"{_place(keys)} stands there twice")
                branch.below[key] = value_type
            else:
                branch = branch.below.setdefault(key, _Branch(keys[depth + 1][1]))

    def build(self, top: Json) -> tuple[Node, list[TreeEntry]]:
        entries: list[TreeEntry] = []
        if self.root is None:
            return Node("dict"), entries
        return _build(self.root, ((), ""), entries, top), entries


class _Branch:
    """A container under construction: its key type and what stands below."""

    __slots__ = ("below", "kind")

    def __init__(self, kind: KeyType) -> None:
        self.kind = kind
        self.below: dict[str | int, _Branch | str] = {}


def _build(
    item: _Branch | str, place: tuple[Path, str], entries: list[TreeEntry], top: Json
) -> Node:
    path, name = place
    if isinstance(item, str):
        if item in _EMPTY:
            return _EMPTY[item]
        entries.append(TreeEntry(path, name, item, isinstance(item, _Aggregated)))
        return LEAF
    below = list(item.below.items())
    key_kind: Literal["index", "key"] = "key"
    if item.kind == 1:
        key_kind = "index"
        below.sort(key=lambda pair: cast("int", pair[0]))
        if [key for key, _ in below] != list(range(len(below))):
            top.corrupt(f"the sequence at {name!r} has gaps")
    dot = name + "." if path else ""
    keys = tuple([Key(key_kind, key) for key, _ in below])
    children = tuple(
        [
            _build(child, ((*path, key), f"{dot}{key.value}"), entries, top)
            for key, (_, child) in zip(keys, below, strict=True)
        ]
    )
    return Node("list" if item.kind == 1 else "dict", keys, children)


def _index(text: str, entry: Json) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        entry.corrupt(f"a position in a sequence cannot be {text!r:.60}")
    return int(text)


def _place(keys: Sequence[tuple[str, KeyType]]) -> str:
    return repr(".".join(text for text, _ in keys))[:80]
