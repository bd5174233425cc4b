"""Paths: where a leaf stands in its tree.

Knows keys, their kinds and their text. Knows nothing of leaves or files.
"""

from collections.abc import Hashable
from typing import Literal, NamedTuple

KeyKind = Literal["index", "key", "attr"]


class Key(NamedTuple):
    """One edge of a tree: position in a sequence, key of a mapping, or attribute of an object."""

    kind: KeyKind
    value: Hashable


Path = tuple[Key, ...]
"""The edges from the root to a leaf; `()` is the root itself."""


def path_text(path: Path) -> str:
    """The path as people write it, `params/dense/kernel`; the root is `.`."""
    return "/".join(str(key.value) for key in path) or "."


def plain_path(path: Path) -> tuple[Hashable, ...]:
    """The path without the kinds of its keys: what a list, a tuple and a dict of ints have in common."""
    return tuple(key.value for key in path)


def text_path(path: Path) -> tuple[str, ...]:
    """The path with every key as text: all that Orbax's metadata keeps of it."""
    return tuple(str(key.value) for key in path)
