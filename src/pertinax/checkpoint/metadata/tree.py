# SPDX-License-Identifier: Apache-2.0
"""The tree of an item as its `_METADATA` has it: a key path and a type for each leaf.

Knows the entries of that file as objects, their JSON values, and the way from and to trees. The
bytes of the file, and what stored arrays are like, are the engine's.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from etils import epath
from jax import tree_util

from pertinax._core.places import locate
from pertinax._formats.metadata.tree_metadata import empty_of
from pertinax.checkpoint._adapt.trees import empty_value
from pertinax.checkpoint.metadata.value import Metadata
from pertinax.checkpoint.tree import (
    get_key_name,
    is_dict_key,
    is_empty_or_leaf,
    is_sequence_key,
    tuple_path_from_keypath,
)

KeyPath = tuple[Any, ...]


class KeyType(enum.Enum):
    """Whether a key is a position in a sequence; if not, it belongs to a mapping or is a field."""

    SEQUENCE = 1
    DICT = 2

    def to_json(self) -> int:
        """Its JSON value."""
        return self.value

    @classmethod
    def from_json(cls, value: int) -> Self:
        """From its JSON value. Raises `ValueError` for any other."""
        return cls(value)


def _key_type_of(key: Any) -> KeyType:
    if is_sequence_key(key):
        return KeyType.SEQUENCE
    if is_dict_key(key):
        return KeyType.DICT
    raise ValueError(f"{key!r}, a {type(key).__name__}, is not a key that a checkpoint can name")


@dataclass
class NestedKeyMetadataEntry:
    """One key on the way to a leaf, as text."""

    nested_key_name: str
    key_type: KeyType

    def to_json(self) -> dict[str, str | int]:
        """Its JSON value."""
        return {"key": self.nested_key_name, "key_type": self.key_type.to_json()}

    @classmethod
    def from_json(cls, json_dict: Mapping[str, Any]) -> Self:
        """From its JSON value."""
        return cls(json_dict["key"], KeyType.from_json(json_dict["key_type"]))

    def jax_key(self) -> Any:
        """The key as JAX has it."""
        if self.key_type is KeyType.SEQUENCE:
            return tree_util.SequenceKey(int(self.nested_key_name))
        return tree_util.DictKey(self.nested_key_name)


@dataclass
class KeyMetadataEntry:
    """All keys on the way to a leaf."""

    nested_key_metadata_entries: list[NestedKeyMetadataEntry]

    @classmethod
    def build(cls, keypath: KeyPath) -> Self:
        """From the keys of a path in a tree. Raises `ValueError` for a key of another kind."""
        return cls(
            [
                NestedKeyMetadataEntry(nested_key_name=str(get_key_name(key)), key_type=kind)
                for key, kind in [(key, _key_type_of(key)) for key in keypath]
            ]
        )

    def names(self) -> tuple[str, ...]:
        """The keys as text."""
        return tuple(entry.nested_key_name for entry in self.nested_key_metadata_entries)

    def to_json(self) -> tuple[dict[str, str | int], ...]:
        """Its JSON value."""
        return tuple(entry.to_json() for entry in self.nested_key_metadata_entries)

    @classmethod
    def from_json(cls, json_dict: Sequence[Mapping[str, Any]]) -> Self:
        """From its JSON value."""
        return cls([NestedKeyMetadataEntry.from_json(entry) for entry in json_dict])


@dataclass
class ValueMetadataEntry:
    """What kind of leaf it is; one to be skipped is an empty container, or lies elsewhere."""

    value_type: str
    skip_deserialize: bool = False

    @classmethod
    def build(cls, info: Any, save_arg: Any = None) -> Self:
        """From the `ParamInfo` of a leaf that is saved.

        Raises `AssertionError` if it does not say the type.
        """
        if info.value_typestr is None:
            raise AssertionError(
                f"Must set `value_typestr` in `ParamInfo` when saving: {info.name!r}"
            )
        return cls(info.value_typestr, empty_of(info.value_typestr) is not None)

    def to_json(self) -> dict[str, Any]:
        """Its JSON value."""
        return {"value_type": self.value_type, "skip_deserialize": self.skip_deserialize}

    @classmethod
    def from_json(cls, json_dict: Mapping[str, Any]) -> Self:
        """From its JSON value; what newer programs add is left out."""
        return cls(json_dict["value_type"], json_dict.get("skip_deserialize", False))


@dataclass
class InternalTreeMetadataEntry:
    """One leaf or empty container. `keypath` is the text that names it in the file."""

    keypath: str
    key_metadata: KeyMetadataEntry
    value_metadata: ValueMetadataEntry

    @classmethod
    def build(cls, keypath: KeyPath, info: Any, save_arg: Any = None) -> Self:
        """From the place of a leaf and its `ParamInfo`."""
        return cls(
            str(tuple_path_from_keypath(keypath)),
            KeyMetadataEntry.build(keypath),
            ValueMetadataEntry.build(info, save_arg),
        )

    def to_json(self) -> dict[str, Any]:
        """Its JSON value, under the text that names it."""
        return {
            self.keypath: {
                "key_metadata": self.key_metadata.to_json(),
                "value_metadata": self.value_metadata.to_json(),
            }
        }

    @classmethod
    def from_json(cls, keypath: str, json_dict: Mapping[str, Any]) -> Self:
        """From what the file has under `keypath`."""
        return cls(
            keypath,
            KeyMetadataEntry.from_json(json_dict["key_metadata"]),
            ValueMetadataEntry.from_json(json_dict["value_metadata"]),
        )

    def jax_keypath(self) -> KeyPath:
        """Its place in the tree, in keys of JAX."""
        return tuple(entry.jax_key() for entry in self.key_metadata.nested_key_metadata_entries)


@dataclass
class InternalTreeMetadata:
    """All that Orbax 0.8 keeps in `_METADATA`. What newer programs add is left out."""

    tree_metadata_entries: list[InternalTreeMetadataEntry]
    use_zarr3: bool = False

    @classmethod
    def build(cls, param_infos: Any, *, save_args: Any = None, use_zarr3: bool = False) -> Self:
        """From a tree with the `ParamInfo` of each leaf and empty container.

        `save_args` is a tree like it, and has no influence any more.
        """
        pairs, _ = tree_util.tree_flatten_with_path(param_infos, is_leaf=is_empty_or_leaf)
        return cls([InternalTreeMetadataEntry.build(path, info) for path, info in pairs], use_zarr3)

    def to_json(self) -> dict[str, Any]:
        """Its JSON value."""
        entries: dict[str, Any] = {}
        for entry in self.tree_metadata_entries:
            entries |= entry.to_json()
        return {"tree_metadata": entries, "use_zarr3": self.use_zarr3}

    @classmethod
    def from_json(cls, json_dict: Mapping[str, Any]) -> Self:
        """From the JSON value of a file."""
        entries = cast("Mapping[str, Any]", json_dict["tree_metadata"]).items()
        return cls(
            [InternalTreeMetadataEntry.from_json(keypath, entry) for keypath, entry in entries],
            bool(json_dict.get("use_zarr3")),
        )

    def as_nested_tree(self, *, keep_empty_nodes: bool) -> Any:
        """Dicts and lists with a `ValueMetadataEntry` for each leaf.

        With `keep_empty_nodes` empty containers have one as well, otherwise they stand for
        themselves. Raises `ValueError` if there is no entry at all.
        """

        def value_of(entry: ValueMetadataEntry) -> Any:
            empty = None if keep_empty_nodes else empty_of(entry.value_type)
            return entry if empty is None else empty_value(empty)

        return self._nest([value_of(entry.value_metadata) for entry in self.tree_metadata_entries])

    def as_user_metadata(
        self, directory: epath.Path, type_handler_registry: Any = None, *, use_ocdbt: bool = True
    ) -> Any:
        """Dicts and lists with the metadata of each leaf as it is stored in `directory`.

        The item is opened once. A leaf that lies elsewhere, or whose type only its own program
        knows, has no more than a name and a directory. The registry and the layout need not be
        told: the item says itself what it is.
        """
        # Type handlers speak of metadata, and this goes back to them: not at import.
        from pertinax.checkpoint._adapt.describe import describe_leaves

        place = epath.Path(locate(directory)[1])
        stored = describe_leaves(place)
        values: list[Any] = []
        for entry in self.tree_metadata_entries:
            keys = tuple(
                key.nested_key_name for key in entry.key_metadata.nested_key_metadata_entries
            )
            empty = empty_of(entry.value_metadata.value_type)
            if empty is not None:
                values.append(empty_value(empty))
            else:
                values.append(stored.get(keys) or Metadata(".".join(keys), place))
        return self._nest(values)

    def _nest(self, values: Sequence[Any]) -> Any:
        if not values:
            raise ValueError("no entries: whether the tree is {} or [] cannot be told")
        paths = [entry.jax_keypath() for entry in self.tree_metadata_entries]
        return _nest(list(zip(paths, values, strict=True)))


def _nest(pairs: list[tuple[KeyPath, Any]]) -> Any:
    """Writers keep positions in order; tools that sort the file by its text do not."""
    first = pairs[0][0]
    if not first:
        return pairs[0][1]
    groups: dict[Any, list[tuple[KeyPath, Any]]] = {}
    for path, value in pairs:
        groups.setdefault(get_key_name(path[0]), []).append((path[1:], value))
    if is_sequence_key(first[0]):
        return [_nest(groups[position]) for position in sorted(groups)]
    return {name: _nest(below) for name, below in groups.items()}
