# SPDX-License-Identifier: Apache-2.0
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


def exact_path(path: Path) -> tuple[Hashable, ...]:
    """The keys alone, so that a list, a tuple and a dict of ints have the same paths.

    `True`, `1` and `1.0` are equal in Python, but they are not the same key of a tree.
    """
    return tuple(
        [(type(key), key) if type(key) is bool or type(key) is float else key for _, key in path]
    )


def text_path(path: Path) -> tuple[str, ...]:
    """The path with every key as text: all that Orbax's metadata keeps of it."""
    return tuple([str(key) for _, key in path])
