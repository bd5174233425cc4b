# SPDX-License-Identifier: Apache-2.0
"""`SaveArgs` and `RestoreArgs`: another dtype, other chunks, another type, shape or layout."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import pertinax
from pertinax import checkpoint as door
from tests.checkpoint.data.twins import agree, mesh, same, sharded

STORED = {"x": jnp.arange(32.0).reshape(8, 4), "n": np.arange(6), "i": 7, "f": 0.5}


def save(ocp: Any, root: Path, tree: Any = None, **kwargs: Any) -> Path:
    ocp.PyTreeCheckpointer().save(root / "it", STORED if tree is None else tree, **kwargs)
    return root / "it"


def restored(ocp: Any, root: Path, key: str, args: Any) -> Any:
    tree = {key: STORED[key]}
    place = save(ocp, root, tree)
    return ocp.PyTreeCheckpointer().restore(place, item=tree, restore_args={key: args})


@pytest.mark.interop
@pytest.mark.parametrize("key", STORED)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.float64, None])
def test_another_dtype(key: str, dtype: Any, tmp_path: Path):
    agree(lambda ocp, root: restored(ocp, root, key, ocp.RestoreArgs(dtype=dtype)), tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    ("key", "kind"),
    [
        *(("x", kind) for kind in (np.ndarray, "np.ndarray", "jax.Array")),
        *(("n", kind) for kind in (np.ndarray, "np.ndarray")),
        *(("i", kind) for kind in (int, np.ndarray)),
        ("x", int),
        ("x", "None"),
        ("x", dict),
        ("x", "nonsense"),
    ],
)
def test_another_type(key: str, kind: Any, tmp_path: Path):
    agree(lambda ocp, root: restored(ocp, root, key, ocp.RestoreArgs(restore_type=kind)), tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize("key", ["x", "n"])
@pytest.mark.parametrize("spec", [("a",), ("b", "a"), (), (("a", "b"),)], ids=str)
def test_another_layout(key: str, spec: tuple[Any, ...], tmp_path: Path):
    if key == "n" and spec:
        spec = ("b",)
    layout = NamedSharding(mesh(), PartitionSpec(*spec))
    agree(
        lambda ocp, root: restored(ocp, root, key, ocp.ArrayRestoreArgs(sharding=layout)), tmp_path
    )


@pytest.mark.interop
def test_a_mesh_and_its_axes_win_over_a_sharding(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        args = ocp.ArrayRestoreArgs(
            mesh=mesh(),
            mesh_axes=PartitionSpec("a"),
            sharding=SingleDeviceSharding(jax.devices()[1]),
        )
        return restored(ocp, root, "x", args)

    agree(program, tmp_path)


@pytest.mark.interop
def test_a_layout_by_its_metadata(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        layout = NamedSharding(mesh(), PartitionSpec(None, "b"))
        told = ocp.metadata.NamedShardingMetadata.from_jax_sharding(layout)
        return restored(ocp, root, "x", ocp.ArrayRestoreArgs(sharding=told))

    agree(program, tmp_path)


def test_a_layout_of_other_devices_may_stand_in_args_until_it_is_replaced(tmp_path: Path):
    place = save(door, tmp_path, {"x": STORED["x"]})
    far = door.metadata.SingleDeviceShardingMetadata("TPU_77")
    args = door.checkpoint_utils.construct_restore_args({"x": STORED["x"]}, {"x": far})
    assert args["x"].sharding == far
    with door.PyTreeCheckpointer() as checkpointer:
        with pytest.raises(ValueError, match="devices"):
            checkpointer.restore(place, restore_args=args)
        args["x"].sharding = SingleDeviceSharding(jax.devices()[1])
        found = checkpointer.restore(place, restore_args=args)["x"]
    assert found.sharding == args["x"].sharding


@pytest.mark.parametrize("kind", [float, bool, "scalar"])
def test_the_python_type_of_a_number_is_that_of_what_is_stored(kind: Any, tmp_path: Path):
    # So it was at 0.8; Orbax 0.12 converts.
    assert restored(door, tmp_path, "i", door.RestoreArgs(restore_type=kind)) is not None
    assert type(door.PyTreeCheckpointer().restore(tmp_path / "it")["i"]) is int


@pytest.mark.row("R307")
@pytest.mark.interop
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("shape", [(8, 4), (4, 2), (16, 8), (4, 8), (32,), (8, 4, 1)], ids=str)
@pytest.mark.parametrize("spec", [(), ("a",)], ids=str)
def test_another_shape(shape: Any, strict: bool, spec: tuple[Any, ...], tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        layout = NamedSharding(mesh(), PartitionSpec(*spec))
        args = ocp.ArrayRestoreArgs(global_shape=shape, strict=strict, sharding=layout)
        return restored(ocp, root, "x", args)

    agree(program, tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    "args",
    [
        {"x": "RestoreArgs"},
        {"x": "RestoreArgs", "y": None},
        ["RestoreArgs"],
        {"x": {"y": "RestoreArgs"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("argument", ["save_args", "restore_args"])
def test_args_of_another_structure(argument: str, args: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        kind = ocp.SaveArgs if argument == "save_args" else ocp.RestoreArgs
        filled = jax.tree.map(lambda _: kind(), args)
        tree = {"x": 1, "z": 2}
        place = save(ocp, root, tree, **({argument: filled} if argument == "save_args" else {}))
        return ocp.PyTreeCheckpointer().restore(place, item=tree, restore_args=filled)

    assert isinstance(agree(program, tmp_path), ValueError)


@pytest.mark.interop
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.int32, np.float16])
def test_saved_in_another_dtype(dtype: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        tree = {"x": sharded(PartitionSpec("a")), "n": np.arange(4.0), "i": 3, "s": "text"}
        args = {key: ocp.SaveArgs(dtype=np.dtype(dtype)) for key in tree}
        return ocp.PyTreeCheckpointer().restore(save(ocp, root, tree, save_args=args))

    agree(program, tmp_path)


@pytest.mark.row("R135")
@pytest.mark.interop
def test_orbax_reads_chunks_and_dtypes_that_the_door_chose(tmp_path: Path):
    import orbax.checkpoint as orbax

    tree = {"x": sharded(PartitionSpec("a"), (64, 64)), "n": np.arange(1000.0)}
    args = {
        "x": door.SaveArgs(chunk_byte_size=512, dtype=np.dtype(jnp.bfloat16)),
        "n": door.SaveArgs(chunk_byte_size=800),
    }
    place = save(door, tmp_path, tree, save_args=args)
    want = {"x": tree["x"].astype(jnp.bfloat16), "n": tree["n"]}
    same(orbax.PyTreeCheckpointer().restore(place), want)
    same(door.PyTreeCheckpointer().restore(place), want)
    assert max(np.prod(leaf.chunk_shape) for leaf in leaves_of(place)) == 256


def leaves_of(place: Path) -> Any:
    found = door.PyTreeCheckpointHandler().metadata(place)
    return [leaf.storage for leaf in jax.tree.leaves(found)]


def test_numbers_saved_in_another_dtype_are_what_that_dtype_makes_of_them(tmp_path: Path):
    args = {"i": door.SaveArgs(dtype=np.dtype(np.float32)), "f": door.SaveArgs(dtype=np.int8)}
    place = save(door, tmp_path, {"i": 3, "f": 2.5}, save_args=args)
    same(pertinax.load(place), {"i": 3.0, "f": 2})


@pytest.mark.wd("WD-10")
def test_a_layout_of_devices_that_are_not_here_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    place = save(door, tmp_path, {"x": sharded(PartitionSpec("a"))})
    file = place / "_sharding"
    (place / "pertinax.json").unlink()
    (place / "_METADATA").write_bytes(
        (place / "_METADATA").read_bytes().replace(b', "pertinax": 1', b"")
    )
    file.write_text(file.read_text().replace('\\"id\\": 3', '\\"id\\": 300'))
    found = door.PyTreeCheckpointer().restore(place)["x"]
    assert found.sharding.device_set == {jax.devices()[0]}
    assert "default device" in caplog.text


@pytest.mark.wd("WD-16")
def test_all_leaves_that_do_not_fit_are_named_at_once(tmp_path: Path):
    tree = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3), "c": jnp.zeros(4)}
    place = save(door, tmp_path, tree)
    wanted = {"a": jnp.zeros((3, 3)), "b": jnp.zeros(3), "c": jnp.zeros(5)}
    with door.StandardCheckpointer() as checkpointer:
        with pytest.raises(ValueError, match="not compatible with the stored shape") as caught:
            checkpointer.restore(place, wanted)
        same(checkpointer.restore(place, wanted, strict=False)["c"], jnp.zeros(5))
    assert "2 of 3 leaves" in str(caught.value)


def test_a_place_on_either_side_alone_is_counted_among_the_leaves(tmp_path: Path):
    place = save(door, tmp_path, {"w": jnp.zeros(2)})
    checkpointer = door.StandardCheckpointer()
    with pytest.raises(ValueError, match="mismatch") as caught:
        checkpointer.restore(place, {"w": {"x": jnp.zeros(2)}})
    assert "2 of 2 leaves" in str(caught.value)


@pytest.mark.interop
def test_transforms_without_an_item_say_nothing(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        return ocp.PyTreeCheckpointer().restore(save(ocp, root), transforms={})

    assert isinstance(agree(program, tmp_path), ValueError)
