# SPDX-License-Identifier: Apache-2.0
"""Weaknesses of Orbax that no other file of tests has a place for: what the door does instead.

`docs/coming-from-orbax.md` has a line for each; `tests/rows/test_weaknesses.py` sees to that.
"""

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax import errors
from tests.checkpoint.data.twins import mesh, same

LAYOUTS: list[dict[str, bool]] = [
    {"use_ocdbt": ocdbt, "use_zarr3": zarr3} for ocdbt in (True, False) for zarr3 in (False, True)
]
every_layout = pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda kw: "-".join(name for name, on in kw.items() if on) or "plain"
)


def save(place: Path, tree: Any, **layout: bool) -> ocp.PyTreeCheckpointer:
    checkpointer = ocp.PyTreeCheckpointer(**layout)
    checkpointer.save(place, tree)
    return checkpointer


# ----------------------------------------------------------------------------------- speed and size


@pytest.mark.row("R235")
@pytest.mark.wd("WD-01")
def test_a_database_is_committed_once_and_keeps_nothing_superseded(tmp_path: Path):
    tree = {f"layer{i}": jnp.full((64, 64), i, jnp.float32) for i in range(50)}
    save(tmp_path / "it", tree)
    payload = sum(leaf.nbytes for leaf in tree.values())
    data = [path.stat().st_size for path in (tmp_path / "it" / "d").iterdir()]
    assert len(data) <= 2  # values, and one tree of keys above them
    assert payload <= sum(data) < 1.1 * payload


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions are called meanwhile, on all threads: a time that no machine changes."""
    count = 0

    def profile(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return count


@pytest.mark.wd("WD-03")
def test_twice_as_many_leaves_are_twice_the_work(tmp_path: Path):
    def tree(leaves: int) -> Any:
        return {f"layer{i}": np.full(4, i) for i in range(leaves)}

    def cost(leaves: int, name: str) -> tuple[int, int, int]:
        checkpointer, place = ocp.PyTreeCheckpointer(), tmp_path / name
        return (
            calls_of(lambda: checkpointer.save(place, tree(leaves))),
            calls_of(lambda: checkpointer.restore(place)),
            calls_of(lambda: checkpointer.metadata(place)),
        )

    cost(10, "warm")
    few, many = cost(300, "few"), cost(600, "many")
    assert all(two < 2.3 * one for one, two in zip(few, many, strict=True)), (few, many)


class Opened:
    """Hears of every file below a directory that is opened in the block."""

    def __init__(self, below: Path) -> None:
        self._below = str(below)
        self._listening = True
        self.names: list[str] = []
        sys.addaudithook(self._hear)  # for as long as the program runs

    def _hear(self, event: str, args: Any) -> None:
        if self._listening and event == "open" and self._below in str(args[0]):
            self.names.append(Path(str(args[0])).name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening = False


@pytest.mark.wd("WD-08")
def test_numbers_cost_no_file_each_and_are_read_together(tmp_path: Path):
    tree = {f"n{i}": i for i in range(500)}
    checkpointer = save(tmp_path / "it", tree)
    files = [path for path in (tmp_path / "it").rglob("*") if path.is_file()]
    assert len(files) < 12
    with Opened(tmp_path) as opened:
        assert checkpointer.restore(tmp_path / "it") == tree
    assert len(opened.names) < 24


@pytest.mark.wd("WD-28")
def test_metadata_reads_no_array_and_opens_no_file_twice(tmp_path: Path):
    tree = {f"x{i}": jnp.full((256, 4), i) for i in range(40)}
    checkpointer = save(tmp_path / "it", tree)
    with Opened(tmp_path) as opened:
        found = checkpointer.metadata(tmp_path / "it")
    assert found["x3"].shape == (256, 4)
    assert len(opened.names) < 12  # and not one for each leaf
    assert opened.names.count("_sharding") <= 1


@pytest.mark.wd("WD-28")
def test_an_abstract_array_without_a_layout_stays_one():
    found = ocp.utils.to_shape_dtype_struct(jax.ShapeDtypeStruct((3,), np.float32))
    assert (found.shape, found.dtype, found.sharding) == ((3,), np.float32, None)


@pytest.mark.wd("WD-14")
def test_an_array_larger_than_the_limit_goes_alone(tmp_path: Path):
    tree = {"large": jnp.ones(1 << 16), "small": [np.ones(10), 3]}
    limited = ocp.PyTreeCheckpointHandler(save_concurrent_gb=1e-6, restore_concurrent_gb=1e-6)
    checkpointer = ocp.Checkpointer(limited)
    checkpointer.save(tmp_path / "it", tree)
    same(checkpointer.restore(tmp_path / "it"), tree)


# ------------------------------------------------------------------------------------- what is kept


@pytest.mark.wd("WD-04")
@every_layout
def test_keys_that_orbax_would_confuse_are_kept_apart(layout: dict[str, bool], tmp_path: Path):
    tree = {
        "a": {"b": 1, "c": {"d": 2}},
        "a.b": 3,
        "a.c": {"d": 4},
        "words": {"h": "s", "h/k": "t", "a~b": "u", "~": "v"},
    }
    checkpointer = save(tmp_path / "it", tree, **layout)
    same(checkpointer.restore(tmp_path / "it"), tree)
    same(checkpointer.restore(tmp_path / "it", item=tree), tree)
    alike = {1: np.arange(2), "1": np.arange(3)}  # both are "1" in Orbax's files
    place = tmp_path / "alike"
    same(save(place, alike, **layout).restore(place, item=alike), alike)
    same(pertinax.load(place), alike)


ROOTS = [0, 5, "", "words", 1.5, True, b"\0", np.arange(4), np.zeros(0), np.array(3)]


@pytest.mark.wd("WD-05")
@every_layout
@pytest.mark.parametrize("make", [lambda: jnp.arange(4), lambda: jnp.zeros((0, 3)), *ROOTS])
def test_a_leaf_by_itself_is_a_tree(make: Any, layout: dict[str, bool], tmp_path: Path):
    leaf = make() if callable(make) else make
    checkpointer = save(tmp_path / "it", leaf, **layout)
    same(checkpointer.restore(tmp_path / "it"), leaf)
    if isinstance(leaf, jax.Array):
        with ocp.StandardCheckpointer() as standard:
            standard.save(tmp_path / "standard", leaf)
            same(standard.restore(tmp_path / "standard", leaf), leaf)


@pytest.mark.wd("WD-06")
@every_layout
def test_arrays_without_elements_are_arrays(layout: dict[str, bool], tmp_path: Path):
    spread = NamedSharding(mesh(), PartitionSpec(None, "a"))
    tree = {
        "jax": jnp.zeros((0, 3), jnp.bfloat16),
        "numpy": np.zeros((2, 0), np.int8),
        "spread": jax.device_put(jnp.zeros((0, 8)), spread),
        "one": 1,
    }
    checkpointer = save(tmp_path / "it", tree, **layout)
    same(checkpointer.restore(tmp_path / "it"), tree)


@pytest.mark.wd("WD-26")
@every_layout
def test_every_number_of_python_and_numpy_is_kept(layout: dict[str, bool], tmp_path: Path):
    tree = {"c": 1 + 2j, "b": b"ab\0", "i": 10**30, "j": -(2**63) - 5, "t": True}
    found = save(tmp_path / "it", {**tree, "n": np.bool_(True)}, **layout).restore(tmp_path / "it")
    assert found == {**tree, "n": True}
    assert {key: type(value) for key, value in found.items() if key != "n"} == {
        key: type(value) for key, value in tree.items()
    }
    args = {key: ocp.SaveArgs(dtype=np.float32) for key in "xy"}  # a class, not np.dtype
    ocp.PyTreeCheckpointer(**layout).save(
        tmp_path / "d", {"x": jnp.ones(2, jnp.int32), "y": 2}, save_args=args
    )
    same(ocp.PyTreeCheckpointer().restore(tmp_path / "d"), {"x": jnp.ones(2), "y": 2.0})


# ------------------------------------------------------------------------------- nothing in silence


@pytest.mark.wd("WD-07")
@pytest.mark.interop
@pytest.mark.parametrize("writer", ["ours", "theirs"])
@pytest.mark.parametrize("zarr3", [False, True])
def test_a_lost_chunk_is_an_error_and_no_zeros(writer: str, zarr3: bool, tmp_path: Path):
    import orbax.checkpoint as orbax

    library: Any = ocp if writer == "ours" else orbax
    checkpointer = library.PyTreeCheckpointer(use_ocdbt=False, use_zarr3=zarr3)
    checkpointer.save(tmp_path / "it", {"x": jnp.ones(4), "y": jnp.arange(3.0)})
    chunk = tmp_path / "it" / "x" / ("c/0" if zarr3 else "0")
    chunk.unlink()
    with pytest.raises(errors.CorruptCheckpoint, match="x"):
        ocp.PyTreeCheckpointer().restore(tmp_path / "it")
    with pytest.raises(errors.CorruptCheckpoint, match="x"):
        pertinax.load(tmp_path / "it")


@pytest.mark.wd("WD-07", "WD-32")
@every_layout
def test_a_flipped_bit_is_found_in_every_layout(layout: dict[str, bool], tmp_path: Path):
    checkpointer = save(tmp_path / "it", {"x": jnp.arange(4096.0), "y": 1}, **layout)
    assert pertinax.verify(tmp_path / "it").ok
    file = max(
        (p for p in (tmp_path / "it").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(errors.CorruptCheckpoint, match="'x'"):
        checkpointer.restore(tmp_path / "it")
    assert not pertinax.verify(tmp_path / "it", on_damage="report").ok


@pytest.mark.wd("WD-32")
def test_compression_is_the_programs_choice(tmp_path: Path):
    tree = {"x": np.zeros(1 << 16)}
    sizes = {}
    for how in ("none", "zstd"):
        pertinax.save(tmp_path / how, tree, compression=how)
        sizes[how] = sum(p.stat().st_size for p in (tmp_path / how).rglob("*") if p.is_file())
        same(ocp.PyTreeCheckpointer().restore(tmp_path / how), tree)
    assert sizes["zstd"] < sizes["none"] / 10


@pytest.mark.wd("WD-09")
def test_a_layout_without_a_name_hides_nothing_else(tmp_path: Path):
    from jax._src.sharding_impls import GSPMDSharding  # compilers made such ones for a long time

    replicated = GSPMDSharding.get_replicated(tuple(jax.devices()))
    tree = {"x": jax.device_put(jnp.arange(8.0), replicated), "y": jnp.ones(3)}
    checkpointer = save(tmp_path / "it", tree)
    found = checkpointer.metadata(tmp_path / "it")
    assert found["x"].sharding is None
    assert found["x"].shape == (8,)
    assert found["y"].sharding is not None
    assert np.array_equal(checkpointer.restore(tmp_path / "it")["x"], np.arange(8.0))


@pytest.mark.wd("WD-11")
@pytest.mark.parametrize(("members", "primary"), [((0, 1, 2), 2), ((1, 3), 3), ((1, 3), 1)])
def test_what_each_process_has_for_itself_is_written_by_the_primary_one(
    members: tuple[int, ...], primary: int
):
    from pertinax._core.options import SaveOptions
    from pertinax._core.prepare import prepare
    from pertinax._plan.topology import Topology

    tree = {"a": np.arange(5), "b": 3, "c": "text", "d": np.float32(0.5)}
    writes = {
        process: prepare(tree, SaveOptions(), "borrow", Topology(process, members, primary))
        for process in members
    }
    numbers = {process: [piece.leaf for piece in w.plan.pieces] for process, w in writes.items()}
    assert numbers == {process: [0, 1, 3] if process == primary else [] for process in members}
    assert all(list(w.values.values()) == ["text"] for w in writes.values())


@pytest.mark.wd("WD-12")
def test_databases_that_were_never_merged_are_called_so(tmp_path: Path):
    save(tmp_path / "it", {"x": jnp.ones(4)})
    part = tmp_path / "it" / "ocdbt.process_0"
    part.mkdir()
    for name in ("manifest.ocdbt", "d"):
        shutil.move(tmp_path / "it" / name, part / name)
    (tmp_path / "it" / "pertinax.json").unlink()
    metadata = json.loads((tmp_path / "it" / "_METADATA").read_text())
    del metadata["pertinax"]
    (tmp_path / "it" / "_METADATA").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="never finished"):
        ocp.PyTreeCheckpointer().restore(tmp_path / "it")


@pytest.mark.wd("WD-15")
def test_shapes_of_numpy_and_types_of_numbers_are_held_by_the_front_door(tmp_path: Path):
    save(tmp_path / "it", {"n": np.arange(4), "i": 3})
    for target in ({"n": np.zeros(5, np.int64), "i": 0}, {"n": np.zeros(4, np.int64), "i": 0.5}):
        with pytest.raises(errors.RestoreMismatch):
            pertinax.load(tmp_path / "it", target)
        with ocp.StandardCheckpointer() as checkpointer:  # as it is at 0.8.0
            assert checkpointer.restore(tmp_path / "it", target)["n"].shape == (4,)


@pytest.mark.wd("WD-15")
def test_a_shape_may_be_a_list_and_none_reads_nothing(tmp_path: Path):
    checkpointer = save(tmp_path / "it", {"x": jnp.arange(4.0), "y": 1}, use_ocdbt=False)
    args = {"x": ocp.ArrayRestoreArgs(global_shape=[4]), "y": ocp.RestoreArgs()}  # type: ignore[arg-type]
    same(checkpointer.restore(tmp_path / "it", restore_args=args)["x"], jnp.arange(4.0))
    (tmp_path / "it" / "x" / "0").write_bytes(b"bad")
    with ocp.StandardCheckpointer() as standard:
        assert standard.restore(tmp_path / "it", {"x": None, "y": 0}) == {"x": None, "y": 1}


@pytest.mark.wd("WD-16")
def test_a_part_of_a_tree_needs_no_transformation(tmp_path: Path):
    save(tmp_path / "it", {"a": jnp.arange(4.0), "b": {"c": 1, "d": 2}})
    assert pertinax.load(tmp_path / "it", select="b/c") == {"b": {"c": 1}}
    assert pertinax.load(tmp_path / "it", {"b": {"d": 0}}, extra="ignore") == {"b": {"d": 2}}
    wanted = {"b": {"c": 0, "x": 0}, "y": 0}
    for call in (pertinax.load, ocp.PyTreeCheckpointer().restore):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - all keys, checked below
            call(tmp_path / "it", wanted)
        assert all(key in str(caught.value) for key in ("a", "b/d", "b/x", "y"))


@pytest.mark.wd("WD-29")
@pytest.mark.parametrize("use_zarr3", [False, True])
def test_one_replica_reads_what_is_stored_and_keeps_to_strict(use_zarr3: bool, tmp_path: Path):
    # No shape, no dtype and no limit of memory is given, and the devices are no TPUs.
    layout = NamedSharding(mesh(), PartitionSpec(None, "b"))
    one = NamedSharding(jax.sharding.Mesh(mesh().devices[:1], ("a", "b")), PartitionSpec(None, "b"))
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.SingleReplicaArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_zarr3=use_zarr3)
    checkpointer = ocp.Checkpointer(handler)
    tree = {"x": jax.device_put(jnp.arange(16.0).reshape(2, 8), layout)}
    checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave(tree))

    def restore(**wanted: Any) -> Any:
        args = ocp.type_handlers.SingleReplicaArrayRestoreArgs(
            sharding=layout, single_replica_sharding=one, **wanted
        )
        how = ocp.args.PyTreeRestore(tree, restore_args={"x": args})
        return checkpointer.restore(tmp_path / "it", args=how)["x"]

    found = restore()
    assert found.sharding == layout
    assert np.array_equal(found, tree["x"])
    with pytest.raises(ValueError, match="not compatible with the stored shape"):
        restore(global_shape=(2, 4))
    assert np.array_equal(restore(global_shape=(2, 4), strict=False), tree["x"][:, :4])


@pytest.mark.wd("WD-33")
def test_nothing_private_of_jax_is_used_but_its_coordination_client():
    root = Path(pertinax.__file__).parent
    private = ("jax._src", "jaxlib", "import PositionalSharding")
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if any(word in path.read_text("utf-8") for word in private)
    }
    assert users <= {"_hosts/job.py", "checkpoint/multihost/__init__.py"}
