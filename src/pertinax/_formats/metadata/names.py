# SPDX-License-Identifier: Apache-2.0
"""Names: what each leaf is called in Orbax's files.

Knows that Orbax joins keys, as text, with dots, and that this is ambiguous in five ways; each is
resolved by renaming as few keys as possible, the same way on every process: a `#2`, `#3`... is put
behind a key. Our own ledger has the real keys. Knows nothing of files.

    {1: x, "1": y}                 two children with the same text      second child
    {"a": {"b": x}, "a.b": y}      two leaves with the same name        the key with the dot
    {"h": "s", "h/k": "t"}         strings at `h` and below `h`         the shorter one
    {"a~b": "s"}                   `~` is an escape in JSON pointers    `-` instead
    {"a/": x}                      to TensorStore this is a directory   `-` instead
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple

from pertinax._tree.paths import Key, Path
from pertinax._tree.skeleton import Node

KeyType = Literal[1, 2]
"""1 for positions in sequences, 2 for everything else."""
_Positions = tuple[int, ...]
_Edge = tuple[_Positions, int]
"""One key of the tree: positions of the children that lead to its node, and its own."""


class OrbaxName(NamedTuple):
    """What one leaf or empty container (`node`) is called: key by key, and all in one."""

    path: Path
    keys: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    name: str
    node: Node


def orbax_names(root: Node, strings: AbstractSet[int] = frozenset()) -> list[OrbaxName]:
    """Names of every leaf and every empty container, in the order of `skeleton.walk`.

    `strings` has the positions of string leaves, counting leaves only. No two leaves have the same
    name.
    """
    speller = _Speller(root)
    while True:
        found = speller.spell()
        edges = _edges_to_rename(found, root, strings)
        if not edges:
            return found
        for edge in edges:
            speller.rename(edge)


class _Speller:
    """Spells all names, with the renamings so far."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._texts: dict[_Positions, list[str]] = {}
        self._attempts: Counter[_Edge] = Counter()
        self._bases: dict[_Edge, str] = {}

    def spell(self) -> list[OrbaxName]:
        out: list[OrbaxName] = []
        start = OrbaxName((), (), (), "", self._root)
        if self._root.children:
            self._walk(start, (), out)
        else:
            out.append(start)
        return out

    def _walk(self, place: OrbaxName, positions: _Positions, out: list[OrbaxName]) -> None:
        path, keys, types, name, node = place
        texts = self._texts.get(positions)
        if texts is None:
            texts = _child_texts(node)
        dot = name + "." if path else ""
        types = (*types, key_type(node))
        for i, (key, text, child) in enumerate(zip(node.keys, texts, node.children, strict=True)):
            below = OrbaxName((*path, key), (*keys, text), types, dot + text, child)
            if child.children:
                self._walk(below, (*positions, i), out)
            else:
                out.append(below)

    def rename(self, edge: _Edge) -> None:
        positions, i = edge
        node = _node_at(self._root, positions)
        texts = self._texts.setdefault(positions, _child_texts(node))
        others = {text for j, text in enumerate(texts) if j != i}
        base = self._bases.setdefault(edge, texts[i])
        clean = _clean(base)
        if clean != base:
            base = self._bases[edge] = clean
            if clean not in others:
                texts[i] = clean
                return
        while True:
            self._attempts[edge] += 1
            text = f"{base}#{self._attempts[edge] + 1}"
            if text not in others:
                texts[i] = text
                return


def key_type(node: Node) -> KeyType:
    """The key type of a node's children: they are a sequence if their keys count from 0."""
    if node.kind in ("list", "tuple"):
        return 1
    if not node.keys or node.keys[0].kind != "index":
        return 2
    return 1 if all(key == Key("index", i) for i, key in enumerate(node.keys)) else 2


def _child_texts(node: Node) -> list[str]:
    texts = [str(key.value) for key in node.keys]
    if len(set(texts)) == len(texts):
        return texts
    taken = set(texts)
    seen: set[str] = set()
    for i, text in enumerate(texts):
        unique, n = text, 1
        while unique in seen or (n > 1 and unique in taken):
            n += 1
            unique = f"{text}#{n}"
        seen.add(unique)
        texts[i] = unique
    return texts


# --- Which keys stand in the way. All of this runs once per save, and finds nothing in almost every
# tree.


def _edges_to_rename(found: list[OrbaxName], root: Node, strings: AbstractSet[int]) -> list[_Edge]:
    leaves = [i for i, name in enumerate(found) if name.node.kind == "leaf"]
    unclean = [leaves[i] for i in strings if "~" in found[leaves[i]].name]
    unclean += [i for i in leaves if not _is_text(found[i].name) or found[i].name.endswith("/")]
    wanted: dict[int, str] = dict.fromkeys(unclean, "unclean")
    if not wanted:
        if len({found[i].name for i in leaves}) < len(leaves):
            wanted = dict.fromkeys(_namesakes(found, leaves), ".")
        else:
            wanted = dict.fromkeys(_interrupted(found, [leaves[i] for i in strings]), "")
    if not wanted:
        return []
    places = list(_positions_of(root, ()))
    edges: dict[_Edge, None] = {}
    for i in sorted(wanted):
        name, positions = found[i], places[i]
        for depth in _depths(name, wanted[i]):
            edges[positions[:depth], positions[depth]] = None
    return list(edges)


def _depths(name: OrbaxName, why: str) -> list[int]:
    if why == "unclean":
        return [i for i, text in enumerate(name.keys) if text != _clean(text)]
    candidates = [i for i, kind in enumerate(name.key_types) if kind == 2 and why in name.keys[i]]
    return candidates[-1:]


def _namesakes(found: list[OrbaxName], leaves: list[int]) -> Iterator[int]:
    """All but one leaf of each name: the one whose keys have no dots stays, else the first."""
    groups: dict[str, list[int]] = {}
    for i in leaves:
        groups.setdefault(found[i].name, []).append(i)
    for group in groups.values():
        if len(group) > 1:
            stays = next((i for i in group if not _depths(found[i], ".")), group[0])
            yield from (i for i in group if i != stays)


def _interrupted(found: list[OrbaxName], strings: list[int]) -> Iterator[int]:
    """String leaves whose name is continued, after a `/`, by that of another."""
    owners = {found[i].name: i for i in strings}
    outer: set[str] = set()
    for name in owners:
        cut = name.rfind("/")
        while cut > -1:
            outer.add(name[:cut])
            cut = name.rfind("/", 0, cut)
    return (i for name, i in owners.items() if name in outer)


def _clean(text: str) -> str:
    text = text.replace("~", "-")
    if text.endswith("/"):
        text = text[:-1] + "-"
    return text if _is_text(text) else text.encode("utf-8", "backslashreplace").decode()


def _is_text(text: str) -> bool:
    """Whether it can be UTF-8: Python strings may hold lone surrogates."""
    if text.isascii():
        return True
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _positions_of(node: Node, positions: _Positions) -> Iterator[_Positions]:
    if not node.children:
        yield positions
    for i, child in enumerate(node.children):
        yield from _positions_of(child, (*positions, i))


def _node_at(node: Node, positions: _Positions) -> Node:
    for i in positions:
        node = node.children[i]
    return node
