# SPDX-License-Identifier: Apache-2.0
"""Eight processes with a device each: layouts that smaller jobs cannot have; others read them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes

pytestmark = pytest.mark.slow

# name -> shape, dtype, axes of each dimension in a mesh `a` 2, `b` 2, `c` 2
LAYOUTS = {
    "cube": ((4, 6, 8), "float32", ("a", "b", "c")),
    "partly": ((8, 6), "float32", ("b",)),  # four copies of each half
    "two": ((8, 6), "bfloat16", (("a", "c"),)),  # two copies of each quarter
    "crossed": ((6, 8), "int16", ("c", "a")),
    "twelve": ((24, 5), "float32", (("a", "b", "c"),)),
    "everywhere": ((3, 5), "float64", ()),
    "number": ((), "int32", ()),
    "nibbles": ((16, 2), "int4", (("b", "a"),)),
    "unibbles": ((16,), "uint4", ("c",)),
    "eighths": ((16, 3), "float8_e5m2", ("a",)),
    "scales": ((16,), "float8_e8m0fnu", ("b",)),
    "waves": ((8,), "complex64", (("a", "b"),)),
}


def values(name: str) -> Any:
    shape, dtype, _ = LAYOUTS[name]
    raw = np.arange(int(np.prod(shape))) * 5 % 13 - (
        0 if dtype in ("uint4", "float8_e8m0fnu") else 6
    )
    host = (2.0**raw if dtype == "float8_e8m0fnu" else raw).astype(jnp.dtype(dtype)).reshape(shape)
    if dtype == "float32":
        host.reshape(-1).view(np.uint32)[:3] = 0x80000000, 0x7FC00001, 0xFFC12345
    return host


def cube_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("a", "b", "c"))


def some_mesh() -> Mesh:
    """Three of the processes, not in order."""
    return Mesh(np.array([jax.devices()[i] for i in (5, 1, 6)]), ("x",))


def spread(host: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: host[index], dtype=host.dtype
    )


def state() -> dict[str, Any]:
    mesh = cube_mesh()
    names = [name for name in LAYOUTS if LAYOUTS[name][1] != "float64"]
    tree: dict[str, Any] = {
        name: spread(values(name), NamedSharding(mesh, PartitionSpec(*LAYOUTS[name][2])))
        for name in names
    }
    some = NamedSharding(some_mesh(), PartitionSpec("x"))
    tree["some"] = spread(np.arange(9, dtype=np.float32).reshape(9, 1), some)
    rows = NamedSharding(mesh, PartitionSpec(("a", "b", "c")))
    tree["keys"] = jax.jit(lambda: jax.random.split(jax.random.key(3), 8), out_shardings=rows)()
    one = NamedSharding(mesh, PartitionSpec())
    tree["key"] = jax.jit(lambda: jax.random.key(4, impl="rbg"), out_shardings=one)()
    tree["host"] = {"n": np.arange(4), "who": "run"}
    return tree


def save_all(path: str) -> Any:
    tree = state()
    pertinax.save(path, tree)
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as checkpointer:
        checkpointer.save(path + "-door", args=ocp.args.PyTreeSave(tree))
        checkpointer.wait_until_finished()
    found = pertinax.load(path, tree)
    return wrong_in(found)


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(array)).tobytes()


def wrong_in(tree: dict[str, Any]) -> list[str]:
    """The leaves of which a shard of this process has other bits than it must."""
    wanted: dict[str, Any] = {name: values(name) for name in tree if name in LAYOUTS}
    wanted["some"] = np.arange(9, dtype=np.float32).reshape(9, 1)
    wanted["keys"] = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), 8)))
    wanted["key"] = np.asarray(jax.random.key_data(jax.random.key(4, impl="rbg")))
    out: list[str] = []
    for name, whole in wanted.items():
        array = jax.random.key_data(tree[name]) if name.startswith("key") else tree[name]
        same = array.dtype == whole.dtype and array.shape == whole.shape
        for shard in array.addressable_shards:
            same = same and bits(shard.data) == bits(whole[shard.index])
        out += [] if same else [name]
    return out if tree["host"]["n"].tolist() == [0, 1, 2, 3] else [*out, "host"]


def load_uneven(path: str) -> Any:
    """On six devices, whose shards begin and end inside of those that were saved."""
    mesh = Mesh(np.array(jax.devices()).reshape(3, 2), ("x", "y"))
    specs = {
        "cube": (None, "x", "y"),
        "partly": (None, ("y", "x")),
        "two": ("y", "x"),
        "crossed": (("x", "y"),),
        "twelve": ("x",),
        "everywhere": ("x",),
        "nibbles": ("y",),
        "eighths": ("y", "x"),
        "some": ("x",),
    }
    kept = ["number", "unibbles", "scales", "waves", "keys", "key"]
    described = {leaf.path: leaf for leaf in pertinax.describe(path).leaves}
    target: dict[str, Any] = {"host": {"n": np.zeros(4, np.int64), "who": ""}}
    for name in [*specs, *kept]:
        if name not in described:
            continue
        leaf = described[name]
        sharding = NamedSharding(mesh, PartitionSpec(*specs.get(name, ())))
        if leaf.kind == "key":
            impl = "rbg" if name == "key" else "threefry2x32"
            dtype = jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype
        else:
            dtype = jnp.dtype(leaf.dtype)
        target[name] = jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)
    return wrong_in(pertinax.load(path, target)), wrong_in(pertinax.load(path + "-door", target))


def test_every_layout_of_eight_and_its_way_to_six_devices_of_three(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert processes.run(save_all, 8, str(path), folder=tmp_path / "job") == [[]] * 8
    assert pertinax.verify(path).ok
    assert pertinax.verify(tmp_path / "state-door").ok
    answers = processes.run(load_uneven, 3, str(path), folder=tmp_path / "job2", devices=2)
    assert answers == [([], [])] * 3


def halve(_: str) -> Any:
    mesh = Mesh(np.array(jax.devices()), ("x",))
    try:
        spread(np.zeros((7, 2), np.float32), NamedSharding(mesh, PartitionSpec("x")))
    except ValueError:
        return "refused"
    return "made"


def test_shards_of_unequal_length_are_none_that_jax_makes(tmp_path: Path) -> None:
    """Should it make them one day, this test says so, and we have some work to do."""
    assert processes.run(halve, 2, "", folder=tmp_path / "job") == ["refused"] * 2
