# SPDX-License-Identifier: Apache-2.0
"""Trees as bytes: the same bytes as Orbax writes, and the same trees out of them."""

import collections
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest

from pertinax import checkpoint as door
from pertinax.checkpoint import msgpack_utils
from tests.checkpoint.data.twins import agree, same


class Point(NamedTuple):
    x: Any
    y: Any


TREES: dict[str, Callable[[], Any]] = {
    "numbers": lambda: {"i": 1, "big": 2**63, "neg": -5, "f": 1.5, "b": True, "n": None},
    "text and bytes": lambda: {"s": "Wörter", "b": b"ab", "a": bytearray(b"q")},
    "complex": lambda: {"c": 1 + 2j, "l": [3j]},
    "numpy scalars": lambda: {
        "i": np.int32(3),
        "b": np.bool_(True),
        "f": np.float64(2.5),
        "c": np.complex64(1 + 1j),
        "bf": ml_dtypes.bfloat16(2),
    },
    "arrays": lambda: {
        "i": np.arange(3),
        "zero": np.array(3.0),
        "empty": np.zeros((0, 3)),
        "jax": jnp.arange(4),
        "bf": jnp.ones(3, jnp.bfloat16),
        "f8": np.ones(2, ml_dtypes.float8_e4m3fn),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "day": np.array(["2020-01-01"], "M8[D]"),
        "i4": np.ones(2, ml_dtypes.int4),
    },
    "tuples": lambda: {"t": (1, (2, np.arange(2))), "l": [1, (2,)], "d": ({"a": ()},)},
    "containers": lambda: {"e": {}, "l": [], "deep": [{"a": [list(range(20))]}]},
    "root array": lambda: np.arange(3),
    "root tuple": lambda: (1, 2),
}


@pytest.mark.interop
@pytest.mark.row("R056")
@pytest.mark.parametrize("name", TREES)
def test_bytes_and_trees_are_those_of_orbax(name: str, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        data = ocp.msgpack_utils.msgpack_serialize(TREES[name]())
        return [data, ocp.msgpack_utils.msgpack_restore(data)]

    agree(program, tmp_path)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.interop
def test_large_arrays_are_cut_as_orbax_cuts_them(
    in_place: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def program(ocp: Any, _: Path) -> Any:
        monkeypatch.setattr(ocp.msgpack_utils, "MAX_CHUNK_SIZE", 64)
        tree = {
            "a": np.arange(30.0).reshape(5, 6),
            "b": {"t": (np.arange(20.0),), "l": [np.arange(20.0)]},
            "j": jnp.arange(30),
            "small": jnp.arange(3),
        }
        data = ocp.msgpack_utils.msgpack_serialize(tree, in_place=in_place)
        return [data, tree, ocp.msgpack_utils.msgpack_restore(data)]

    agree(program, tmp_path)


def test_a_root_array_is_cut_and_joined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(msgpack_utils, "MAX_CHUNK_SIZE", 64)
    value = np.arange(30.0).reshape(5, 6)
    data = msgpack_utils.msgpack_serialize(value)
    assert b"__msgpack_chunked_array__" in data
    same(msgpack_utils.msgpack_restore(data), value)


@pytest.mark.parametrize(
    "leaf",
    [
        np.array([object()]),
        np.zeros(2, [("a", "i4")]),
        np.array(["text"]),
        np.str_("text"),
        jax.random.key(0),
        2**70,
        {1, 2},
        print,
        collections.OrderedDict(a=1),
    ],
    ids=lambda leaf: f"{type(leaf).__name__}",
)
def test_what_could_not_be_read_back_is_refused(leaf: Any):
    with pytest.raises(ValueError, match=r"Unsupported|not supported|read back|no spelling"):
        msgpack_utils.msgpack_serialize({"a": leaf})


def test_bytes_in_another_order_keep_their_values():
    data = msgpack_utils.msgpack_serialize({"a": np.arange(3, dtype=">i4")})
    assert msgpack_utils.msgpack_restore(data)["a"].tolist() == [0, 1, 2]


def test_integers_may_be_keys():
    tree = {1: "a", -2: {3: "b"}}
    assert msgpack_utils.msgpack_restore(msgpack_utils.msgpack_serialize(tree)) == tree


def test_a_named_tuple_comes_back_as_a_plain_one():
    data = msgpack_utils.msgpack_serialize({"p": Point(1, (2,))})
    assert msgpack_utils.msgpack_restore(data) == {"p": (1, (2,))}


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91", b"\x01\x02", b"\xc7\x01\x09\x00"])
def test_bytes_that_are_no_tree_are_refused(data: bytes):
    with pytest.raises(ValueError, match="MessagePack"):
        msgpack_utils.msgpack_restore(data)


def test_an_unknown_dtype_is_named():
    payload = msgpack.packb([[1], "str64", bytes(8)])
    with pytest.raises(TypeError, match="str64"):
        msgpack_utils.msgpack_restore(msgpack.packb(msgpack.ExtType(1, payload)))


@pytest.mark.slow
@pytest.mark.row("R029")
def test_flax_is_not_needed():
    program = """
import sys
sys.modules["flax"] = None
import numpy as np
from pertinax.checkpoint import msgpack_utils as m
tree = m.msgpack_restore(m.msgpack_serialize({"a": np.arange(3), "b": [1, "x", (2.5,)]}))
assert tree["a"].tolist() == [0, 1, 2] and tree["b"] == [1, "x", (2.5,)], tree
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_limit_has_its_name():
    assert door.msgpack_utils.MAX_CHUNK_SIZE == 2**30
