# SPDX-License-Identifier: Apache-2.0
"""Skeletons: the shape of a tree without its leaves.

Knows which container stands where, with which keys, and how to say so in JSON. Knows nothing of
live objects: `flatten` makes skeletons from them, `rebuild` makes them from skeletons.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pertinax._tree.paths import Key, KeyKind, Path

NodeKind = Literal[
    "leaf",
    "none",
    "dict",
    "ordered_dict",
    "default_dict",
    "list",
    "tuple",
    "namedtuple",
    "dataclass",
    "custom",
]
_CONTAINER_KINDS = frozenset(set(get_args(NodeKind)) - {"leaf", "none"})
_KEY_KINDS = frozenset(get_args(KeyKind))
MAX_DEPTH = 200
"""Deeper skeletons are refused: Python itself gives up at about five times that."""
MAX_INT_BITS = 14_000
"""Python refuses to write longer integers as text (4,300 digits)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One container (or leaf) of a skeleton.

    `keys[i]` leads to `children[i]`. `type_name` is `module:qualname` of a class that plain Python
    does not have. `static` holds what the class keeps beside its children, as JSON (fields of a
    dataclass, a default factory). `is_mapping` is said of empty containers of other classes only:
    Orbax has them as empty dicts.
    """

    kind: NodeKind
    keys: tuple[Key, ...] = ()
    children: tuple["Node", ...] = ()
    type_name: str | None = None
    static: Any = None
    is_mapping: bool = False

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.children):
            raise ValueError(f"a node with {len(self.keys)} keys and {len(self.children)} children")


LEAF = Node("leaf")
NONE = Node("none")


def leaf_paths(root: Node) -> list[Path]:
    """Paths of all leaves, in the order in which `flatten` met them."""
    return [path for path, node in walk(root) if node.kind == "leaf"]


def walk(root: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every leaf and every empty container with its path, in flattening order."""
    if not root.children:
        yield path, root
        return
    for key, child in zip(root.keys, root.children, strict=True):
        if child.children:
            yield from walk(child, (*path, key))
        else:
            yield (*path, key), child


# --- JSON. A leaf is 0, None is null; every other node is an object with short names, for there are
# many of them.


def encode(node: Node) -> Any:
    """The skeleton as JSON values; `decode` is the inverse."""
    if node.kind == "leaf":
        return 0
    if node.kind == "none":
        return None
    out: dict[str, Any] = {"t": node.kind}
    if node.type_name is not None:
        out["n"] = node.type_name
    if node.static is not None:
        out["s"] = node.static
    if node.is_mapping:
        out["m"] = True
    if node.kind not in ("list", "tuple"):
        out["k"] = [_encode_key(key, node.kind) for key in node.keys]
    out["c"] = [encode(child) for child in node.children]
    return out


def decode(data: Any, depth: int = 0) -> Node:
    """The skeleton that `encode` wrote. Raises `ValueError` for anything else."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if data is None:
        return NONE
    if data == 0 and not isinstance(data, bool):
        return LEAF
    if not isinstance(data, dict):
        raise ValueError(f"a node cannot be {data!r:.60}")
    fields = cast("dict[str, Any]", data)
    kind, children = fields.get("t"), fields.get("c")
    if not isinstance(kind, str) or kind not in _CONTAINER_KINDS or not isinstance(children, list):
        raise ValueError(f"no such kind of node: {kind!r:.60}")
    below = tuple(decode(child, depth + 1) for child in cast("list[Any]", children))
    if kind in ("list", "tuple"):
        keys = tuple(Key("index", i) for i in range(len(below)))
    else:
        keys = tuple(_decode_key(key, kind) for key in _as_list(fields.get("k")))
    if len({(type(key.value), key.value) for key in keys}) < len(keys):
        raise ValueError(f"a {kind} with two equal keys")
    name, static = fields.get("n"), fields.get("s")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"a type name cannot be {name!r:.60}")
    _check_static(kind, static)
    is_mapping = fields.get("m") is True and not below
    return Node(cast("NodeKind", kind), keys, below, name, static, is_mapping)


def _check_static(kind: str, static: Any) -> None:
    if static is None or (kind == "default_dict" and isinstance(static, str)):
        return
    if kind != "dataclass" or not isinstance(static, dict):
        raise ValueError(f"a {kind} cannot keep {static!r:.60}")
    for value in cast("dict[str, Any]", static).values():
        decode_value(value)


def _as_list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"expected a list of keys, found {data!r:.60}")
    return cast("list[Any]", data)


_DEFAULT_KEY_KIND: Mapping[str, KeyKind] = {
    "dict": "key",
    "ordered_dict": "key",
    "default_dict": "key",
    "namedtuple": "attr",
    "dataclass": "attr",
}


def _encode_key(key: Key, node_kind: NodeKind) -> Any:
    if key.kind == _DEFAULT_KEY_KIND.get(node_kind):
        return encode_value(key.value)
    return [key.kind, encode_value(key.value)]


def _decode_key(data: Any, node_kind: str) -> Key:
    default = _DEFAULT_KEY_KIND.get(node_kind)
    if isinstance(data, list):
        pair = cast("list[Any]", data)
        if len(pair) != 2 or not isinstance(pair[0], str) or pair[0] not in _KEY_KINDS:
            raise ValueError(f"a key cannot be {data!r:.60}")
        return Key(cast("KeyKind", pair[0]), decode_value(pair[1]))
    if default is None:
        raise ValueError(f"a key without its kind: {data!r:.60}")
    return Key(default, decode_value(data))


def encode_value(value: Any) -> Any:
    """A plain Python value (text, numbers, None, bytes, tuples of them) as JSON, type included.

    Raises `TypeError` for anything else.
    """
    if value is None or type(value) in (str, bool):
        return value
    if type(value) is int:
        if value.bit_length() > MAX_INT_BITS:
            raise TypeError(f"an integer of {value.bit_length()} bits is not plain data")
        return value if abs(value) < 2**53 else {"int": str(value)}
    if type(value) is float:
        return {"float": value.hex()}
    if type(value) is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if type(value) is tuple:
        return {"tuple": [encode_value(part) for part in cast("tuple[Any, ...]", value)]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def is_plain(value: Any) -> bool:
    """Whether `encode_value` has words for the value."""
    try:
        encode_value(value)
    except TypeError:
        return False
    return True


def decode_value(data: Any, depth: int = 0) -> Any:
    """The value that `encode_value` wrote. Raises `ValueError` for anything else."""
    if depth > MAX_DEPTH // 4:
        raise ValueError("a value nested too deep")
    if data is None or isinstance(data, str | bool | int):
        return data
    if isinstance(data, dict) and len(cast("dict[str, Any]", data)) == 1:
        ((kind, inner),) = cast("dict[str, Any]", data).items()
        try:
            return _decode_tagged(kind, inner, depth)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"not a {kind}: {inner!r:.60}") from error
    raise ValueError(f"not a plain value: {data!r:.60}")


def _decode_tagged(kind: str, inner: Any, depth: int) -> Any:
    if kind == "int":
        return int(inner)
    if kind == "float":
        return float.fromhex(inner)
    if kind == "complex":
        real, imag = inner
        return complex(float.fromhex(real), float.fromhex(imag))
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "tuple":
        return tuple([decode_value(part, depth + 1) for part in inner])
    raise ValueError(f"no such kind of value: {kind!r:.60}")
