# SPDX-License-Identifier: Apache-2.0
"""Items as old releases of Orbax wrote them, made by hand: no release that we can run writes them.

Knows the aggregate file, texts that stand for leaves, and what such an item lacks. The directories
of leaves are those of the door, which real Orbax reads (`tests/interop/layouts`).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
from jax.sharding import PartitionSpec

from pertinax import checkpoint as door
from tests.checkpoint.data.twins import sharded

Entry = tuple[list[tuple[str, int]], str, bool]
"""Keys with their types, the type of the value, and whether it is in the aggregate file."""


def packed(array: Any, code: int = 1) -> msgpack.ExtType:
    array = np.asarray(array)
    return msgpack.ExtType(code, msgpack.packb([array.shape, array.dtype.name, array.tobytes()]))


def aggregate(place: Path, tree: Any, name: str = "checkpoint") -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(msgpack.packb(tree))
    return place


def leaves(place: Path, tree: Any, **layout: Any) -> Path:
    """Arrays in the item, without anything that says what tree they are."""
    scratch = place.parent / f"{place.name}-scratch"
    door.PyTreeCheckpointer(**{"use_ocdbt": False, **layout}).save(scratch, tree)
    place.mkdir(parents=True, exist_ok=True)
    said = ("_METADATA", "_CHECKPOINT_METADATA", "pertinax.json", "commit_success.txt")
    for found in scratch.iterdir():
        if found.name not in said:
            found.rename(place / found.name)
    shutil.rmtree(scratch)
    return place


def metadata(place: Path, entries: list[Entry]) -> Path:
    tree = {
        str(tuple(key for key, _ in keys)): {
            "key_metadata": [{"key": key, "key_type": kind} for key, kind in keys],
            "value_metadata": {"value_type": value_type, "skip_deserialize": skip},
        }
        for keys, value_type, skip in entries
    }
    (place / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    return place


VALUES: dict[str, Any] = {
    "x": packed(np.arange(8.0)),
    "n": packed(np.float32(1.5), 3),
    "i": 3,
    "f": 2.5,
    "b": True,
    "none": None,
    "ed": {},
    "el": [],
    "s": "text",
    "by": b"ab",
    "c": msgpack.ExtType(2, msgpack.packb([1.0, 2.0])),
    "l": [1, packed(np.arange(2))],
    "p": "PLACEHOLDER://p",
    "q": {"r": "AGGREGATED://q.r"},
}


def without_metadata(place: Path) -> Path:
    """From before 0.3.2: the tree is in the aggregate file, and large arrays are elsewhere."""
    aggregate(place, VALUES)
    return leaves(place, {"p": np.arange(3), "q": {"r": jnp.arange(8.0)}})


def with_metadata(place: Path) -> Path:
    """From before 0.5.16: `_METADATA` has the tree, and the aggregate file small values."""
    values = {
        "a": packed(np.arange(4)),
        "j": packed(np.arange(8.0)),
        "s": 7,
        "p": "PLACEHOLDER://p",
        "z": "PLACEHOLDER://z",
        "l": [1, "PLACEHOLDER://l.1"],
        "e": {},
        "str": "hi",
    }
    aggregate(place, values)
    leaves(place, {"p": np.arange(3), "z": sharded(PartitionSpec("a")), "l": [0, np.ones(2)]})
    shutil.rmtree(place / "l.0")
    return metadata(
        place,
        [
            ([("a", 2)], "np.ndarray", True),
            ([("j", 2)], "jax.Array", True),
            ([("s", 2)], "scalar", True),
            ([("p", 2)], "np.ndarray", False),
            ([("z", 2)], "jax.Array", False),
            ([("l", 2), ("0", 1)], "scalar", True),
            ([("l", 2), ("1", 1)], "np.ndarray", False),
            ([("e", 2)], "Dict", True),
            ([("str", 2)], "string", True),
        ],
    )


def placeholders_only(place: Path) -> Path:
    """`_METADATA` has the tree, and the aggregate file says nothing that it does not."""
    aggregate(place, {"p": "PLACEHOLDER://p", "e": {}})
    leaves(place, {"p": np.arange(3)})
    return metadata(place, [([("p", 2)], "np.ndarray", False), ([("e", 2)], "Dict", True)])


def in_database(place: Path) -> Path:
    """No `_METADATA`; arrays are in OCDBT."""
    leaves(place, {"p": np.arange(3), "z": jnp.arange(4.0)}, use_ocdbt=True)
    tree = {"p": "PLACEHOLDER://p", "z": "PLACEHOLDER://z", "v": packed(np.arange(2))}
    return aggregate(place, tree)


def directories_only(place: Path) -> Path:
    """Nothing but the directories of leaves."""
    tree = {"p": np.arange(3), "l": [np.zeros(1), np.ones(2)], "n": {"m": jnp.ones(2)}, "s": 5}
    return leaves(place, tree)
